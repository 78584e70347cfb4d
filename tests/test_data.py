from __future__ import annotations

import dataclasses
import gzip
import urllib.error
import urllib.request
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision.datasets
from conftest import needs_fashion_mnist
from filelock import FileLock, Timeout
from helpers import IDX_FILES, Items, idx_bytes
from PIL import Image
from tolerances import NORMALISED, PUBLISHED, STATISTICS_MEAN, STATISTICS_STD
from torch.utils.data import TensorDataset

import fastdc
from fastdc.data import ImageData, as_image_data, as_pair, dataset_names
from fastdc.data.image_data import pixel_statistics
from fastdc.data.sources import named
from fastdc.data.sources.idx import read_idx
from fastdc.errors import DataError, MissingFileError


def random_images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_image_folder(root, images, labels, names, splits=("train", "test"), suffix="png"):
    for split in splits:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = root / split / names[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i:03d}.{suffix}")


def write_small_fashion_mnist(folder, compress, seed=0):
    folder.mkdir(parents=True)
    arrays = (random_images(20, 28, 28, seed=seed), np.arange(20) % 10, random_images(10, 28, 28, seed=seed + 1), np.arange(10))
    for stem, array in zip(IDX_FILES, arrays, strict=True):
        raw = idx_bytes(array)
        (folder / (f"{stem}.gz" if compress else stem)).write_bytes(gzip.compress(raw) if compress else raw)
    return arrays


@pytest.fixture(scope="module")
def fashion_mnist():
    return fastdc.load_dataset("fashion-mnist", root="/nowhere")


@pytest.fixture
def no_internet(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


# digits


def test_digits_are_all_there_and_split_eighty_to_twenty_by_class():
    train, test = fastdc.load_dataset("digits")
    assert (len(train), len(test)) == (1437, 360)
    share = train.class_counts / (train.class_counts + test.class_counts)
    assert torch.all((share - 0.8).abs() < 0.01)
    assert train.class_names == tuple("0123456789")


def test_digits_hold_the_pixels_of_scikit_learn_and_no_image_twice():
    from sklearn.datasets import load_digits

    train, test = fastdc.load_dataset("digits")
    found = torch.cat([train.images, test.images])[:, 0].double() * 16 / 255
    numbers = torch.cat([train.labels, test.labels])

    def in_order(rows):
        return rows[np.lexsort(rows.T)]

    bunch = load_digits()
    expected = np.column_stack([bunch.images.reshape(len(bunch.images), -1), bunch.target])
    given = np.column_stack([found.round().flatten(1).numpy(), numbers.numpy()])
    np.testing.assert_array_equal(in_order(given), in_order(expected))


def test_digits_are_split_in_the_same_way_each_time_whatever_the_global_seed():
    torch.manual_seed(1)
    np.random.seed(1)
    before = fastdc.load_dataset("digits")
    torch.manual_seed(2)
    np.random.seed(2)
    assert [part.fingerprint for part in before] == [part.fingerprint for part in fastdc.load_dataset("digits")]


# FashionMNIST, the real one


@needs_fashion_mnist
def test_fashion_mnist_has_its_sixty_thousand_real_images(fashion_mnist):
    train, test = fashion_mnist
    assert (train.images.shape, test.images.shape) == ((60000, 1, 28, 28), (10000, 1, 28, 28))
    assert train.class_counts.tolist() == [6000] * 10
    assert test.class_counts.tolist() == [1000] * 10
    assert train.labels[:5].tolist() == [9, 0, 0, 3, 0]  # as published
    assert (train.class_names[9], train.name, test.name) == ("ankle boot", "fashion-mnist", "fashion-mnist")


@needs_fashion_mnist
def test_fashion_mnist_has_the_published_mean_and_standard_deviation_in_both_halves(fashion_mnist):
    train, test = fashion_mnist
    assert train.mean == pytest.approx((0.2860,), abs=PUBLISHED)
    assert train.std == pytest.approx((0.3530,), abs=PUBLISHED)
    assert (test.mean, test.std) == (train.mean, train.std)


@needs_fashion_mnist
def test_fashion_mnist_statistics_are_those_of_whole_number_sums(fashion_mnist):
    values = fashion_mnist[0].images.numpy().ravel()
    count = np.bincount(values, minlength=256).astype(object)  # exact whole numbers of any size
    total, squares = sum(i * n for i, n in enumerate(count)), sum(i * i * n for i, n in enumerate(count))
    mean = total / values.size
    assert fashion_mnist[0].mean[0] == pytest.approx(mean / 255, rel=STATISTICS_MEAN)
    assert fashion_mnist[0].std[0] == pytest.approx((squares / values.size - mean**2) ** 0.5 / 255, rel=STATISTICS_STD)


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzipped"])
def test_fashion_mnist_is_read_from_the_folder_of_torchvision(tmp_path, monkeypatch, compress):
    monkeypatch.setattr(named, "DEBIAN_FASHION_MNIST", tmp_path / "nowhere")
    arrays = write_small_fashion_mnist(tmp_path / "root" / "FashionMNIST" / "raw", compress)
    train, test = fastdc.load_dataset("fashion-mnist", root=tmp_path / "root")
    np.testing.assert_array_equal(train.images[:, 0], arrays[0])
    np.testing.assert_array_equal(train.labels, arrays[1])
    np.testing.assert_array_equal(test.images[:, 0], arrays[2])
    np.testing.assert_array_equal(test.labels, arrays[3])


def test_the_root_given_comes_before_the_folder_of_debian(tmp_path, monkeypatch):
    ours = write_small_fashion_mnist(tmp_path / "root" / "FashionMNIST" / "raw", True, seed=1)
    write_small_fashion_mnist(tmp_path / "debian", True, seed=5)
    monkeypatch.setattr(named, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
    np.testing.assert_array_equal(fastdc.load_dataset("fashion-mnist", root=tmp_path / "root")[0].images[:, 0], ours[0])


def test_an_interrupted_download_does_not_hide_the_files_of_debian(tmp_path, monkeypatch, no_internet):
    debian = write_small_fashion_mnist(tmp_path / "debian", True)
    monkeypatch.setattr(named, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
    partial = tmp_path / "root" / "FashionMNIST" / "raw"
    partial.mkdir(parents=True)
    (partial / f"{IDX_FILES[0]}.gz").write_bytes((tmp_path / "debian" / f"{IDX_FILES[0]}.gz").read_bytes())
    np.testing.assert_array_equal(fastdc.load_dataset("fashion-mnist", root=tmp_path / "root")[0].images[:, 0], debian[0])


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 4, 6)])
def test_idx_files_of_any_rank_are_read(tmp_path, shape):
    array = random_images(*shape)
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx_bytes(array)))
    np.testing.assert_array_equal(read_idx(tmp_path / "a.gz"), array)


# torchvision


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "svhn", "cifar10", "cifar100", "usps"])
def test_a_dataset_that_is_not_here_and_cannot_be_downloaded_says_so_in_one_line(name, tmp_path, monkeypatch, no_internet):
    monkeypatch.setattr(named, "DEBIAN_FASHION_MNIST", tmp_path / "nowhere")
    with pytest.raises(MissingFileError, match=rf"{name} is not in .*cannot be downloaded.*--data-root") as caught:
        fastdc.load_dataset(name, root=tmp_path / "root")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [OSError("disk on fire"), urllib.error.URLError("no route to host")])
def test_a_torchvision_class_that_cannot_reach_its_files_gives_a_missing_file_error(tmp_path, monkeypatch, error):
    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fail)
    with pytest.raises(MissingFileError, match=rf"cifar10 is not in {tmp_path} .*(disk on fire|no route)"):
        fastdc.load_dataset("cifar10", root=tmp_path)


def test_torchvision_files_that_are_damaged_give_a_data_error(tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise RuntimeError("Dataset not found or corrupted.")

    monkeypatch.setattr(torchvision.datasets, "SVHN", fail)
    with pytest.raises(DataError, match=r"svhn in .* cannot be read .*corrupted"):
        fastdc.load_dataset("svhn", root=tmp_path)


FAKES = {  # what the classes of torchvision hold: shape and kind of data, name and kind of the labels
    "mnist": ("MNIST", (20, 28, 28), torch.as_tensor, "targets", torch.as_tensor, (1, 28, 28)),
    "svhn": ("SVHN", (20, 3, 32, 32), np.asarray, "labels", np.asarray, (3, 32, 32)),
    "cifar10": ("CIFAR10", (20, 32, 32, 3), np.asarray, "targets", list, (3, 32, 32)),
    "cifar100": ("CIFAR100", (20, 32, 32, 3), np.asarray, "targets", list, (3, 32, 32)),
    "usps": ("USPS", (20, 16, 16), np.asarray, "targets", list, (1, 16, 16)),
}


@pytest.mark.parametrize("name", FAKES)
def test_what_torchvision_reads_becomes_image_data(name, tmp_path, monkeypatch):
    cls, shape, as_data, label_name, as_labels, expected = FAKES[name]
    calls = []

    def fake(root, download, **split):
        calls.append((root, download, tuple(split.values())))
        result = type(cls, (), {})()
        result.data = as_data(random_images(*shape, seed=len(calls)))
        setattr(result, label_name, as_labels(np.arange(20) % 4))
        return result

    monkeypatch.setattr(torchvision.datasets, cls, fake)
    train, test = fastdc.load_dataset(name, root=tmp_path)
    assert calls == [(str(tmp_path), False, s) for s in ((("train",), ("test",)) if name == "svhn" else ((True,), (False,)))]
    assert train.images.shape == test.images.shape == (20, *expected)
    assert train.labels.tolist() == [0, 1, 2, 3] * 5
    assert (train.name, test.mean) == (name, train.mean)
    assert not torch.equal(train.images, test.images)


def test_what_is_missing_is_downloaded_by_one_process_at_a_time(tmp_path, monkeypatch):
    calls = []

    def fake(_root, download, train):
        calls.append((train, download))
        if not download:
            raise RuntimeError("Dataset not found. You can use download=True to download it")
        with pytest.raises(Timeout):
            FileLock(tmp_path / "root" / ".mnist.lock", timeout=0).acquire()
        return SimpleNamespace(data=torch.zeros(2, 8, 8, dtype=torch.uint8), targets=torch.arange(2))

    monkeypatch.setattr(torchvision.datasets, "MNIST", fake)
    train, _ = fastdc.load_dataset("mnist", root=tmp_path / "root")
    assert len(train) == 2
    assert calls == [(True, False), (True, True), (False, False), (False, True)]


def test_labels_of_a_test_set_that_are_names_are_numbered_as_those_of_the_training_set():
    images, names = random_images(8, 6, 6), ["cat", "dog", "fox", "owl"]
    train, test = as_pair((images, names * 2), (images[:4], ["fox", "owl", "fox", "cat"]))
    assert train.class_names == test.class_names == tuple(names)
    assert test.labels.tolist() == [2, 3, 2, 0]


def test_a_test_set_whose_classes_have_other_numbers_is_refused():
    train, test = (
        ImageData.of(torch.from_numpy(random_images(4, 1, 6, 6)), torch.arange(4) % 2, class_names=names) for names in ("ab", "ba")
    )
    with pytest.raises(DataError, match=r"classes of the test set are b, a, .*training set a, b, .*expected one order"):
        as_pair(train, test)


def test_items_of_several_channels_are_not_told_to_change_their_size():
    items = Items([(torch.zeros(1, 6, 6), 0), (torch.zeros(3, 6, 6), 1)])
    with pytest.raises(DataError, match=r"image 1 has shape \[3, 6, 6\], image 0 \[1, 6, 6\]; give all of them as many channels"):
        as_image_data(items)


def test_every_name_that_is_listed_has_a_loader():
    assert set(dataset_names()) == {*FAKES, "digits", "fashion-mnist", "folder:PATH", "npz:PATH", "shards:PATH"}


# folder:PATH and npz:PATH


@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_with_a_subfolder_per_class_is_read(tmp_path, channels):
    images = random_images(6, 5, 7) if channels == 1 else random_images(6, 5, 7, 3)
    labels = [0, 0, 1, 1, 2, 2]
    write_image_folder(tmp_path, images, labels, ["ant", "bee", "cow"])
    train, test = fastdc.load_dataset(f"folder:{tmp_path}")
    expected = images[:, None] if channels == 1 else images.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(train.images, expected)
    np.testing.assert_array_equal(test.images, expected)
    assert train.labels.tolist() == labels
    assert (train.class_names, train.name, train.image_size) == (("ant", "bee", "cow"), f"folder:{tmp_path}", (5, 7))


def test_grey_images_become_rgb_beside_coloured_ones(tmp_path):
    write_image_folder(tmp_path, random_images(2, 4, 4), [0, 1], ["a", "b"], splits=("train",))
    write_image_folder(tmp_path, random_images(2, 4, 4, 3), [0, 1], ["a", "b"], splits=("test",))
    train, test = fastdc.load_dataset(f"folder:{tmp_path}")
    assert train.channels == test.channels == 3
    assert torch.equal(train.images[:, 0], train.images[:, 2])


def test_other_files_beside_the_images_of_a_folder_are_left_alone(tmp_path):
    write_image_folder(tmp_path, random_images(2, 4, 4), [0, 1], ["a", "b"])
    (tmp_path / "train" / "a" / "notes.txt").write_text("not an image")
    assert len(fastdc.load_dataset(f"folder:{tmp_path}")[0]) == 2


def test_pngs_of_sixteen_bits_are_rounded_to_eight(tmp_path):
    images = np.random.default_rng(0).integers(0, 1 << 16, (2, 4, 4)).astype(np.uint16)
    write_image_folder(tmp_path, images, [0, 1], ["a", "b"])
    with pytest.warns(UserWarning, match=r"rounded from 16 to 8 bits a pixel \(4 images\)"):
        train, _ = fastdc.load_dataset(f"folder:{tmp_path}")
    np.testing.assert_array_equal(train.images[:, 0], np.round(images / 257))


@pytest.mark.parametrize(
    "keys", [("x_train", "y_train", "x_test", "y_test"), ("train_images", "train_labels", "test_images", "test_labels")]
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_archive_with_either_family_of_keys_is_read(tmp_path, keys, save):
    arrays = (random_images(6, 5, 7, 3), np.arange(6) % 3, random_images(3, 5, 7, 3, seed=1), np.arange(3))
    save(tmp_path / "a.npz", **dict(zip(keys, arrays, strict=True)), something_else=np.zeros(3))
    train, test = fastdc.load_dataset(f"npz:{tmp_path / 'a.npz'}")
    np.testing.assert_array_equal(train.images, arrays[0].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(test.images, arrays[2].transpose(0, 3, 1, 2))
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 2, 0, 1, 2], [0, 1, 2])
    assert (test.mean, test.std) == (train.mean, train.std)


def test_an_npz_archive_may_hold_its_labels_as_a_column(tmp_path):
    x, y = random_images(4, 5, 5), np.array([[0], [1], [1], [0]])
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    assert fastdc.load_dataset(f"npz:{tmp_path / 'a.npz'}")[0].labels.tolist() == [0, 1, 1, 0]


def test_a_test_set_need_not_hold_every_class(tmp_path):
    x = random_images(4, 5, 5)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=np.arange(4), x_test=x[:1], y_test=np.array([2]))
    assert fastdc.load_dataset(f"npz:{tmp_path / 'a.npz'}")[1].class_counts.tolist() == [0, 0, 1, 0]


def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_image_folder(tmp_path / "data", random_images(2, 4, 4), [0, 1], ["a", "b"])
    assert len(fastdc.load_dataset("folder:~/data")[0]) == 2


# arrays and tensors


LAYOUTS = {
    "NCHW grey": ((6, 1, 5, 7), lambda a: a),
    "NCHW": ((6, 3, 5, 7), lambda a: a),
    "NHWC grey": ((6, 5, 7, 1), lambda a: a.transpose(0, 3, 1, 2)),
    "NHWC": ((6, 5, 7, 3), lambda a: a.transpose(0, 3, 1, 2)),
    "NHW": ((6, 5, 7), lambda a: a[:, None]),
}
KINDS = {
    "numpy uint8": lambda a: a,
    "numpy float32": lambda a: (a / 255).astype(np.float32),
    "numpy float64": lambda a: a / 255,
    "tensor uint8": torch.from_numpy,
    "tensor float32": lambda a: torch.from_numpy(a).float() / 255,
    "tensor float64": lambda a: torch.from_numpy(a).double() / 255,
    "tensor with a graph": lambda a: (torch.from_numpy(a).float() / 255).requires_grad_(),
    "nested list": lambda a: a.tolist() if a.dtype != np.uint8 else (a / 255).tolist(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_images_of_every_layout_and_kind_become_the_same_bytes(layout, kind):
    shape, as_nchw = LAYOUTS[layout]
    array = random_images(*shape)
    data = as_image_data((KINDS[kind](array), np.arange(6) % 3))
    assert data.images.dtype == torch.uint8
    np.testing.assert_array_equal(data.images, as_nchw(array))


def test_float_pixels_are_rounded_to_the_nearest_of_256_levels():
    pixels = np.array([0, 0.4 / 255, 0.6 / 255, 127.4 / 255, 254.6 / 255, 1]).reshape(1, 1, 2, 3)
    data = as_image_data((np.concatenate([pixels, pixels]), [0, 1]))
    assert data.images[0].flatten().tolist() == [0, 0, 1, 127, 255, 255]


def test_more_float_images_than_one_block_are_converted_whole():
    array = random_images(2500, 4, 4)
    np.testing.assert_array_equal(as_image_data((array / 255, np.arange(2500) % 2)).images[:, 0], array)


def test_the_first_bad_float_image_is_named_by_its_position():
    images = torch.zeros(2500, 1, 2, 2)
    images[2077, 0, 1, 1] = 1.5
    with pytest.raises(DataError, match=r"image 2077 has pixels from 0 to 1.5"):
        as_image_data((images, torch.arange(2500) % 2))


@pytest.mark.parametrize("flip", [lambda a: a[:, ::-1], lambda a: a[..., ::-1], lambda a: a[::-1]], ids=["upside down", "BGR", "reversed"])
def test_numpy_views_that_run_backwards_are_taken(flip):
    array = random_images(6, 5, 7, 3)
    np.testing.assert_array_equal(as_image_data((flip(array), np.arange(6) % 3)).images, flip(array).transpose(0, 3, 1, 2))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", "uint64"])
def test_labels_of_any_whole_number_type_are_taken(dtype):
    data = as_image_data((random_images(6, 4, 4), np.array([2, 0, 1, 0, 2, 2]).astype(dtype)))
    assert data.labels.dtype == torch.int64
    assert data.labels.tolist() == [2, 0, 1, 0, 2, 2]


def test_a_memory_mapped_file_is_taken_without_a_copy_or_a_warning(tmp_path):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), dtype=np.uint8))
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = as_image_data((mapped, np.arange(20) % 2))
    assert data.images.data_ptr() == mapped.ctypes.data


def test_numpy_arrays_of_the_other_byte_order_are_taken():
    array = random_images(6, 5, 7)
    data = as_image_data(((array / 255).astype(">f4"), np.array([2, 0, 1, 0, 2, 2]).astype(">i8")))
    np.testing.assert_array_equal(data.images[:, 0], array)
    assert data.labels.tolist() == [2, 0, 1, 0, 2, 2]


@pytest.mark.parametrize("kind", [list, tuple, np.asarray, torch.as_tensor])
def test_labels_keep_the_order_they_come_in(kind):
    data = as_image_data((random_images(6, 4, 4), kind([2, 0, 1, 0, 2, 2])))
    assert data.labels.tolist() == [2, 0, 1, 0, 2, 2]
    assert data.class_counts.tolist() == [2, 1, 3]


def test_uint8_tensors_in_channel_order_are_kept_without_a_copy():
    images, labels = torch.from_numpy(random_images(6, 3, 5, 7)), torch.arange(6) % 3
    data = as_image_data((images, labels))
    assert (data.images.data_ptr(), data.labels.data_ptr()) == (images.data_ptr(), labels.data_ptr())


@pytest.mark.parametrize("shape", [(6, 3, 5, 7), (6, 5, 7, 3), (6, 5, 7)])
def test_uint8_arrays_are_kept_without_a_copy(shape):
    array = random_images(*shape)
    data = as_image_data((array, np.arange(6) % 3))
    assert np.shares_memory(data.images.numpy(), array)


def test_image_data_is_handed_back_as_it_is():
    data = as_image_data((random_images(6, 4, 4), np.arange(6) % 3))
    assert as_image_data(data) is data


@pytest.mark.parametrize(("split", "count"), [("train", 1437), ("test", 360)])
def test_a_name_stands_for_the_half_that_is_asked_for(split, count):
    assert len(as_image_data("digits", split=split)) == count


# a map-style torch Dataset


def test_a_dataset_of_tensors_is_read_once():
    images = torch.from_numpy(random_images(6, 3, 5, 7))
    dataset = Items([(image, label) for image, label in zip(images, [2, 0, 1, 0, 2, 2], strict=True)])
    data = as_image_data(dataset)
    assert dataset.reads == 6
    assert torch.equal(data.images, images)
    assert data.labels.tolist() == [2, 0, 1, 0, 2, 2]


def test_a_tensor_dataset_with_labels_as_tensors_is_read():
    images, labels = torch.from_numpy(random_images(6, 1, 5, 7)), torch.tensor([2, 0, 1, 0, 2, 2])
    data = as_image_data(TensorDataset(images.float() / 255, labels))
    assert torch.equal(data.images, images)
    assert torch.equal(data.labels, labels)


@pytest.mark.parametrize(("shape", "channels"), [((5, 7), 1), ((5, 7, 3), 3)])
def test_a_dataset_of_pil_images_is_read(shape, channels):
    arrays = [random_images(*shape, seed=i) for i in range(4)]
    data = as_image_data(Items([(Image.fromarray(array), i % 2) for i, array in enumerate(arrays)]))
    assert data.images.shape == (4, channels, 5, 7)
    expected = np.stack(arrays)
    np.testing.assert_array_equal(data.images, expected[:, None] if channels == 1 else expected.transpose(0, 3, 1, 2))


def test_pil_images_with_a_palette_give_their_colours_and_not_their_palette_numbers():
    arrays = [random_images(5, 7, 3, seed=i) // 64 * 64 for i in range(4)]
    palettes = [Image.fromarray(array).convert("P") for array in arrays]
    data = as_image_data(Items([(image, i % 2) for i, image in enumerate(palettes)]))
    expected = np.stack([np.asarray(image.convert("RGB")) for image in palettes])
    np.testing.assert_array_equal(data.images, expected.transpose(0, 3, 1, 2))


def test_a_dataset_of_torchvision_with_a_transform_is_read(tmp_path):
    from torchvision.transforms.functional import to_tensor

    images = random_images(4, 5, 7, 3)
    write_image_folder(tmp_path, images, [0, 0, 1, 1], ["ant", "bee"])
    data = as_image_data(torchvision.datasets.ImageFolder(str(tmp_path / "train"), transform=to_tensor))
    np.testing.assert_array_equal(data.images, images.transpose(0, 3, 1, 2))
    assert data.class_names == ("ant", "bee")


def test_class_names_of_a_dataset_are_kept_where_they_fit():
    items = [(random_images(4, 4, seed=i), i % 2) for i in range(4)]
    assert as_image_data(Items(items, classes=["ant", "bee"])).class_names == ("ant", "bee")
    assert as_image_data(Items(items, classes="ab")).class_names == ("0", "1")


def test_extra_parts_of_an_item_are_ignored():
    assert len(as_image_data(Items([(random_images(4, 4, seed=i), i % 2, {"id": i}) for i in range(4)]))) == 4


# ImageData


@pytest.mark.parametrize("channels", [1, 3])
def test_mean_and_std_are_those_of_a_float64_computation(channels):
    images = random_images(50, channels, 9, 11) // np.array([1, 2, 3][:channels], dtype=np.uint8)[:, None, None]
    data = as_image_data((images, np.arange(50) % 2))
    pixels = images.astype(np.float64) / 255
    assert data.mean == pytest.approx(tuple(pixels.mean((0, 2, 3))), rel=STATISTICS_MEAN)
    assert data.std == pytest.approx(tuple(pixels.std((0, 2, 3))), rel=STATISTICS_STD)


def test_statistics_counted_in_blocks_are_those_of_the_whole(monkeypatch):
    images = torch.from_numpy(random_images(37, 3, 8, 8))
    whole = pixel_statistics(images)
    monkeypatch.setattr("fastdc.data.image_data._BLOCK", 5 * 64)
    assert pixel_statistics(images) == whole


def test_normalised_images_are_pixels_minus_mean_over_std():
    images = random_images(6, 3, 5, 7)
    data = as_image_data((images, np.arange(6) % 2))
    index = [4, 0, 4]
    expected = (images[index] / 255 - np.reshape(data.mean, (3, 1, 1))) / np.reshape(data.std, (3, 1, 1))
    np.testing.assert_allclose(data.normalised(torch.tensor(index), torch.float64), expected, rtol=0, atol=NORMALISED[torch.float64])
    found = data.normalised(torch.tensor(index))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=NORMALISED[torch.float32])


def test_the_whole_set_normalised_has_mean_zero_and_std_one():
    data, _ = fastdc.load_dataset("digits")
    pixels = data.normalised(slice(None), torch.float64)
    assert pixels.mean().item() == pytest.approx(0, abs=STATISTICS_STD)
    assert pixels.std(correction=0).item() == pytest.approx(1, rel=STATISTICS_STD)


def test_image_data_is_frozen():
    data = as_image_data((random_images(6, 4, 4), np.arange(6) % 2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.mean = (0.0,)


def test_a_set_says_its_size():
    data = as_image_data((random_images(6, 3, 5, 7), np.arange(6) % 2))
    assert (len(data), data.channels, data.image_size, data.num_classes, data.class_names) == (6, 3, (5, 7), 2, ("0", "1"))


@pytest.fixture
def pair():
    return torch.from_numpy(random_images(6, 3, 4, 4)), torch.arange(6) % 2


def test_equal_data_have_equal_fingerprints_whatever_their_memory_layout(pair):
    images, labels = pair
    scattered = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not scattered.is_contiguous()
    assert ImageData.of(images, labels).fingerprint == ImageData.of(scattered, labels.clone(), name="other").fingerprint


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda x, y: (x.index_fill(0, torch.tensor([5]), 7), y), id="one image"),
        pytest.param(lambda x, y: (torch.cat([x[:-1], x[-1:] ^ torch.eye(4, dtype=torch.uint8)]), y), id="one bit of one image"),
        pytest.param(lambda x, y: (x, torch.cat([y[:-1], 1 - y[-1:]])), id="one label"),
        pytest.param(lambda x, y: (x.flip(0), y.flip(0)), id="order"),
        pytest.param(lambda x, y: (x.reshape(6, 3, 2, 8), y), id="shape"),
        pytest.param(lambda x, y: (x[:-1], y[:-1]), id="length"),
    ],
)
def test_other_data_have_another_fingerprint(pair, change):
    assert ImageData.of(*change(*pair)).fingerprint != ImageData.of(*pair).fingerprint
