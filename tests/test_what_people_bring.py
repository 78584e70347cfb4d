"""Data as it lies on people's disks and in their notebooks: each kind, with the right value."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, Subset

import fastdc
from fastdc.cli import main
from fastdc.data import as_image_data, storage
from fastdc.data.labels import labels_and_names, natural
from fastdc.data.sources import labelled_pictures
from fastdc.errors import DataError, MissingFileError, UsageError

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8)).astype(np.uint8)
LABELS = np.arange(40) % 2


def picture(position: int, size: tuple[int, int] = (8, 8), mode: str = "L") -> Image.Image:
    """A picture whose pixels say which one it is."""
    return Image.new("L", size, position * 10).convert(mode)


def make(folder: Path, classes: tuple[str, ...] = ("ant", "bee"), each: int = 5, suffix: str = "png", **options: Any) -> Path:
    """A folder with one subfolder per class."""
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            picture(number * each + i, **options).save(folder / name / f"{i}.{suffix}")
    return folder


@pytest.fixture(autouse=True)
def no_unexpected_warning(request: pytest.FixtureRequest) -> Any:
    """A change that no test expects is an error; the command line prints it."""
    with warnings.catch_warnings():
        if "capsys" not in request.fixturenames:
            warnings.filterwarnings("error", category=UserWarning, module="fastdc")
        yield


# folders


@pytest.mark.parametrize("train", ["train", "Training", "TRAIN"])
@pytest.mark.parametrize("test", ["test", "val", "valid", "validation", "Testing", "VAL"])
def test_halves_of_a_folder_go_by_the_names_that_people_give_them(tmp_path: Path, train: str, test: str) -> None:
    make(tmp_path / train)
    make(tmp_path / test, each=2)
    found = fastdc.load_dataset(f"folder:{tmp_path}")
    assert [len(half) for half in found] == [10, 4]
    assert found[0].changes == ()


def test_where_there_are_images_to_validate_on_and_to_test_on_the_test_is_taken(tmp_path: Path) -> None:
    for name, each in (("train", 3), ("val", 2), ("test", 1)):
        make(tmp_path / name, each=each)
    assert [len(half) for half in fastdc.load_dataset(f"folder:{tmp_path}")] == [6, 2]


@pytest.mark.parametrize("inner", ["", "train"])
def test_a_folder_without_a_split_is_split_in_the_same_way_each_time(tmp_path: Path, inner: str) -> None:
    make(tmp_path / inner, each=10)
    with pytest.warns(UserWarning, match="split into 16 images to train on and 4 to test on"):
        train, test = fastdc.load_dataset(f"folder:{tmp_path}")
    assert train.class_counts.tolist() == [8, 8]
    assert test.class_counts.tolist() == [2, 2]
    both = torch.cat([train.images, test.images])[:, 0, 0, 0]
    assert sorted(both.tolist()) == sorted(10 * number % 256 for number in range(20))
    with pytest.warns(UserWarning, match="split"):
        again = fastdc.load_dataset(f"folder:{tmp_path}")
    assert (again[0].fingerprint, again[1].fingerprint) == (train.fingerprint, test.fingerprint)
    with pytest.warns(UserWarning, match="split"):
        condensed = fastdc.coresets.random(fastdc.load_dataset(f"folder:{tmp_path}")[0], 1)
    assert condensed.provenance["changes"] == ["split into 16 images to train on and 4 to test on"]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    make(tmp_path, ("bus", "train"))
    with pytest.warns(UserWarning, match="split"):
        assert fastdc.load_dataset(f"folder:{tmp_path}")[0].class_names == ("bus", "train")


def test_a_class_of_one_image_is_trained_on(tmp_path: Path) -> None:
    make(tmp_path)
    picture(0).save((tmp_path / "cow").mkdir() or tmp_path / "cow" / "0.png")
    with pytest.warns(UserWarning, match="split"):
        train, test = fastdc.load_dataset(f"folder:{tmp_path}")
    assert (train.class_counts[2], test.class_counts[2]) == (1, 0)
    for name in ("ant", "bee"):
        for file in list((tmp_path / name).iterdir())[1:]:
            file.unlink()
    with pytest.raises(DataError, match="none is left to test on"):
        fastdc.load_dataset(f"folder:{tmp_path}")


def test_images_to_test_on_alone_are_no_dataset(tmp_path: Path) -> None:
    make(tmp_path / "val")
    with pytest.raises(MissingFileError, match="train is missing beside val/"):
        fastdc.load_dataset(f"folder:{tmp_path}")


def test_a_class_may_have_no_image_to_test_on(tmp_path: Path) -> None:
    make(tmp_path / "train", ("ant", "bee", "cow"))
    make(tmp_path / "val", ("ant", "cow"))
    assert fastdc.load_dataset(f"folder:{tmp_path}")[1].class_counts.tolist() == [5, 0, 5]


@pytest.mark.parametrize("hidden", [".ipynb_checkpoints", ".git", "__MACOSX", ".Trash-0"])
def test_what_systems_put_beside_classes_and_images_is_not_there(tmp_path: Path, hidden: str) -> None:
    for half in ("train", "test"):
        make(tmp_path / half)
        make(tmp_path / half / hidden, ("ant",))
        make(tmp_path / half / "ant" / hidden, ("copies",))
        picture(0).save(tmp_path / half / "ant" / "._0.png")
        (tmp_path / half / "ant" / "Thumbs.db").write_bytes(b"x")
        (tmp_path / half / "ant" / ".DS_Store").write_bytes(b"x")
    train, _ = fastdc.load_dataset(f"folder:{tmp_path}")
    assert (train.class_names, len(train)) == (("ant", "bee"), 10)


def test_classes_are_numbered_as_people_count(tmp_path: Path) -> None:
    names = tuple(map(str, range(12)))
    for half in ("train", "test"):
        make(tmp_path / half, names, each=1)
    assert fastdc.load_dataset(f"folder:{tmp_path}")[0].class_names == names


@pytest.mark.parametrize(
    "names", [["class_2", "class_10"], ["0002", "0010"], ["v1.9", "v1.10"], ["B", "a"], ["1", "1a", "2"], ["é", "ü"], ["2²", "3"]]
)
def test_names_are_in_natural_order(names: list[str]) -> None:
    assert sorted(set(names), key=natural) == names


def test_images_below_a_class_are_its_own_however_deep_and_through_links(tmp_path: Path) -> None:
    for half in ("train", "test"):
        make(tmp_path / half)
    make(tmp_path / "elsewhere", ("more",), each=3)
    (tmp_path / "train" / "ant" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "train" / "ant" / "round").symlink_to(tmp_path / "train" / "ant")
    assert fastdc.load_dataset(f"folder:{tmp_path}")[0].class_counts.tolist() == [8, 5]


@pytest.mark.parametrize("suffix", ["png", "PNG", "jpeg", "JPG", "bmp", "gif", "tif", "webp", "pgm"])
def test_images_of_every_usual_format_are_read(tmp_path: Path, suffix: str) -> None:
    for half in ("train", "test"):
        make(tmp_path / half, suffix=suffix)
    train, _ = fastdc.load_dataset(f"folder:{tmp_path}")
    assert (train.images[:, 0, 0, 0].int() - torch.arange(10) * 10).abs().max() <= 2


def test_images_of_several_sizes_are_named_and_brought_to_one(tmp_path: Path) -> None:
    make(tmp_path / "train", size=(12, 8))
    make(tmp_path / "test", size=(8, 8))
    with pytest.raises(DataError, match=r"0\.png is 8x8 pixels, the first image 12x8; give image_size=N"):
        fastdc.load_dataset(f"folder:{tmp_path}")
    with pytest.warns(UserWarning, match=r"resized, the middle of each, to 6x6 pixels \(20 images\)"):
        train, test = fastdc.load_dataset(f"folder:{tmp_path}", image_size=6)
    assert train.image_size == test.image_size == (6, 6)
    assert train.images[:, 0].flatten(1).unique(dim=1).squeeze(1).tolist() == [10 * i for i in range(10)]
    with pytest.warns(UserWarning, match="to 6x4 pixels"):
        assert fastdc.load_dataset(f"folder:{tmp_path}", image_size=(4, 6))[0].image_size == (4, 6)


def test_the_middle_is_kept_where_proportions_change(tmp_path: Path) -> None:
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 4:8] = 200
    for half in ("train", "test"):
        for name in ("ant", "bee"):
            (tmp_path / half / name).mkdir(parents=True)
            Image.fromarray(wide).save(tmp_path / half / name / "0.png")
    with pytest.warns(UserWarning, match="resized"):
        assert (fastdc.load_dataset(f"folder:{tmp_path}", image_size=4)[0].images == 200).all()
    pair = (np.stack([wide, wide])[:, None], [0, 1])
    with pytest.warns(UserWarning, match="from 12x4 to 4x4"):
        assert (as_image_data(pair, image_size=(4, 4)).images == 200).all()


@pytest.mark.parametrize("size", [0, -3, 2.5, "8", (8,), (8, 0), [8, 8, 8], True, 10**9])
def test_sizes_that_are_none_are_refused(size: Any) -> None:
    if size is True:
        size = (True, 8)
    with pytest.raises(UsageError, match=r"image_size is .* expected a whole number from 1"):
        fastdc.load_dataset("digits", image_size=size)
    with pytest.raises(UsageError, match="image_size"):
        fastdc.condense("digits", 1, image_size=size, iterations=1)


def test_named_sets_arrays_and_image_data_are_brought_to_a_size() -> None:
    with pytest.warns(UserWarning, match="digits: resized, the middle of each, from 8x8 to 12x12 pixels"):
        train, test = fastdc.load_dataset("digits", image_size=12)
    assert train.image_size == test.image_size == (12, 12)
    same, _ = fastdc.load_dataset("digits", image_size=8)
    assert same.fingerprint == fastdc.load_dataset("digits")[0].fingerprint
    assert same.changes == ()
    options: dict[str, Any] = {"image_size": 6, "iterations": 1, "model": "mlp:width=8", "batch_real": 4, "progress": False}
    for data in ((IMAGES, LABELS), as_image_data((IMAGES, LABELS)), [(image, label) for image, label in zip(IMAGES, LABELS, strict=True)]):
        given = Items(data) if isinstance(data, list) else data
        with pytest.warns(UserWarning, match="to 6x6 pixels"):
            condensed = fastdc.condense(given, 1, **options)
        assert condensed.image_size == (6, 6)
        assert "to 6x6 pixels (40 images)" in condensed.provenance["changes"][0]
    with pytest.warns(UserWarning, match="from 8x8 to 6x6"):
        assert fastdc.evaluate(condensed_digits(6), "digits", model="mlp:width=8", networks=1, epochs=1).accuracies


def condensed_digits(size: int) -> fastdc.CondensedDataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fastdc.coresets.random(fastdc.load_dataset("digits", image_size=size)[0], 1)


def test_images_that_fill_memory_are_kept_in_a_file_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for half in ("train", "test"):
        make(tmp_path / half)
    expected = fastdc.load_dataset(f"folder:{tmp_path}")
    monkeypatch.setattr(storage, "FOLDER", tmp_path / "pixels")
    monkeypatch.setattr(storage, "free_memory", lambda device: 100.0)
    found = fastdc.load_dataset(f"folder:{tmp_path}")
    assert [half.fingerprint for half in found] == [half.fingerprint for half in expected]
    assert list((tmp_path / "pixels").iterdir()) == []
    options: dict[str, Any] = {"iterations": 1, "matching_steps": 1, "model": "mlp:width=8", "batch_real": 4, "progress": False}
    assert torch.equal(fastdc.condense(found[0], 1, **options).images, fastdc.condense(expected[0], 1, **options).images)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(storage, "FOLDER", tmp_path / "file")
    with pytest.raises(fastdc.errors.RunError, match=r"do not fit into memory, and .*file cannot take them"):
        fastdc.load_dataset(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    ("classes", "names"),
    [(["bee", "dog"], ("bee", "dog")), ([3, 0], ("dog", "ant")), (("2", "ant"), ("cow", "ant")), (range(2), ("ant", "bee"))],
)
def test_some_classes_alone(tmp_path: Path, classes: Any, names: tuple[str, ...]) -> None:
    for half in ("train", "test"):
        make(tmp_path / half, ("ant", "bee", "cow", "dog"))
    whole = fastdc.load_dataset(f"folder:{tmp_path}")
    train, test = fastdc.load_dataset(f"folder:{tmp_path}", classes=classes)
    assert train.class_names == test.class_names == names
    assert train.class_counts.tolist() == [5, 5]
    for number, name in enumerate(names):
        assert torch.equal(train.images[train.labels == number], whole[0].images[whole[0].labels == whole[0].class_names.index(name)])
    assert (train.mean, train.std) != (whole[0].mean, whole[0].std)
    assert train.changes == (f"only the classes {names[0]}, {names[1]}",)


@pytest.mark.parametrize("classes", [["ant"], ["ant", "ant"], ["ant", "elk"], "ant", [0, 9], 3, []])
def test_classes_that_are_none_are_refused(tmp_path: Path, classes: Any) -> None:
    for half in ("train", "test"):
        make(tmp_path / half)
    with pytest.raises(UsageError, match="class"):
        fastdc.load_dataset(f"folder:{tmp_path}", classes=classes)


def test_the_command_line_takes_a_size_and_classes_and_tests_on_the_like(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "data", ("1", "2", "10"), each=10, size=(9, 8))
    given = ["--dataset", f"folder:{tmp_path / 'data'}", "--image-size", "8", "--classes", "10", "2", "--ipc", "1", "--quiet"]
    short = ["--networks", "1", "--epochs", "1", "--model", "mlp:width=8"]
    assert main(["condense", *given, *short, "--iterations", "1", "--out", str(tmp_path / "run")]) == 0
    condensed = fastdc.CondensedDataset.load(tmp_path / "run" / "condensed.safetensors")
    assert (condensed.class_names, condensed.image_size) == (("10", "2"), (8, 8))
    output = capsys.readouterr()
    assert output.err.count("fastdc: folder:") == output.err.count("resized") == output.err.count("split into 24") == 1
    assert main(["evaluate", str(tmp_path / "run"), *short, "--quiet"]) == 0
    assert main(["select", "--coreset", "random", *given, "--out", str(tmp_path / "chosen")]) == 0


# pictures


def with_alpha(mode: str) -> Image.Image:
    """Black with a transparent right half."""
    alpha = Image.fromarray(np.repeat([[255] * 4 + [0] * 4], 8, 0).astype(np.uint8))
    black = Image.new("RGB", (8, 8))
    if mode == "LA":
        return Image.merge("LA", (black.convert("L"), alpha))
    rgba = Image.merge("RGBA", (*black.split(), alpha))
    return rgba.quantize(4) if mode == "P" else rgba


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1 transparent"])
@pytest.mark.parametrize("way", ["folder", "dataset", "dicts"])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str, way: str) -> None:
    image = with_alpha(mode)
    options = {}
    if mode == "1 transparent":  # a grey PNG may name one shade as transparent
        image, options = Image.fromarray(np.repeat([[0] * 4 + [77] * 4], 8, 0).astype(np.uint8)), {"transparency": 77}
    paths = [tmp_path / half / name / "0.png" for half in ("train", "test") for name in ("ant", "bee")]
    for path in paths:
        path.parent.mkdir(parents=True)
        image.save(path, **options)
    opened = Image.open(paths[0])
    items = [(opened, 0), (opened, 1)] if way == "dataset" else [{"image": opened, "label": number} for number in (0, 1)]
    with pytest.warns(UserWarning, match=r"what is transparent was put on white \([24] images\)"):
        data = fastdc.load_dataset(f"folder:{tmp_path}")[0] if way == "folder" else as_image_data(Items(items))
    assert (data.images[..., :4] == 0).all()
    assert (data.images[..., 4:] == 255).all()


def test_pictures_that_could_be_transparent_and_are_not_change_nothing() -> None:
    image = Image.merge("RGBA", (*picture(5, mode="RGB").split(), Image.new("L", (8, 8), 255)))
    assert (as_image_data(Items([(image, 0), (image, 1)])).images == 50).all()


def test_pictures_stand_upright_as_cameras_say(tmp_path: Path) -> None:
    lying = Image.fromarray(np.repeat(np.arange(8)[:, None] * 30, 8, 1).astype(np.uint8))  # dark above, once it is turned dark at the right
    exif = Image.Exif()
    exif[0x0112] = 6
    for half in ("train", "test"):
        for name in ("ant", "bee"):
            (tmp_path / half / name).mkdir(parents=True)
            lying.save(tmp_path / half / name / "0.png", exif=exif)
    with pytest.warns(UserWarning, match=r"turned upright as their EXIF says \(4 images\)"):
        train, _ = fastdc.load_dataset(f"folder:{tmp_path}")
    np.testing.assert_array_equal(train.images[0, 0], np.rot90(np.asarray(lying), -1))


@pytest.mark.parametrize(
    ("image", "expected", "said"),
    [
        (Image.fromarray(np.full((8, 8), 257 * 90, np.uint16)), 90, "rounded from 16 to 8 bits"),
        (Image.fromarray(np.full((8, 8), 257 * 90, np.int32)), 90, "rounded from 16 to 8 bits"),
        (Image.fromarray(np.full((8, 8), 0.4, np.float32)), 102, "rounded from floats to 8 bits"),
        (Image.new("1", (8, 8), 1), 255, None),
        (Image.new("CMYK", (8, 8), (0, 0, 0, 155)), 100, None),
        (Image.new("YCbCr", (8, 8), (70, 128, 128)), 70, None),
        (Image.new("P", (8, 8), 0), 0, None),
    ],
    ids=["16 bits", "32 bits", "floats", "two levels", "print", "video", "palette"],
)
def test_pictures_of_every_mode_become_bytes(image: Image.Image, expected: int, said: str | None) -> None:
    items = Items([(image, 0), (image, 1)])
    if said is None:
        data = as_image_data(items)
    else:
        with pytest.warns(UserWarning, match=said):
            data = as_image_data(items)
    assert (data.images.int() - expected).abs().max() <= 1


@pytest.mark.parametrize("pixels", [np.full((8, 8), 1 << 20, np.int32), np.full((8, 8), -1, np.int32), np.full((8, 8), 300.0, np.float32)])
def test_pixels_that_are_no_picture_are_refused(pixels: Any) -> None:
    image = Image.fromarray(pixels)
    with pytest.raises(DataError, match=r"image 0 of the dataset: its pixels are .* save it with 8"):
        as_image_data(Items([(image, 0), (image, 1)]))


def test_the_first_frame_of_a_moving_picture_is_taken(tmp_path: Path) -> None:
    for half in ("train", "test"):
        for name in ("ant", "bee"):
            (tmp_path / half / name).mkdir(parents=True)
            frames = [picture(n) for n in (3, 9)]
            frames[0].save(tmp_path / half / name / "0.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match="only the first of several frames is used"):
        assert (fastdc.load_dataset(f"folder:{tmp_path}")[0].images == 30).all()


def test_grey_pictures_before_the_first_in_colour_become_rgb_too() -> None:
    data = as_image_data(Items([(picture(1), 0), (picture(2), 0), (picture(3, mode="RGB"), 1)]))
    assert (data.channels, data.images[:, :, 0, 0].tolist()) == (3, [[10] * 3, [20] * 3, [30] * 3])


# arrays


@pytest.mark.parametrize("channels", [2, 4, 7, 13])
@pytest.mark.parametrize("last", [False, True])
def test_any_number_of_channels_is_learned_from(channels: int, last: bool) -> None:
    images = np.random.default_rng(1).integers(0, 256, (20, channels, 16, 16)).astype(np.uint8)
    images[:, 1] = 9  # which says nothing
    data = as_image_data((images.transpose(0, 2, 3, 1) if last else images, np.arange(20) % 2))
    np.testing.assert_array_equal(data.images, images)
    assert data.std[1] == 1
    options: dict[str, Any] = {"iterations": 1, "matching_steps": 2, "model": "convnet:width=4,depth=2", "batch_real": 4, "progress": False}
    found, expected = (fastdc.condense(data, 1, engine=engine, **options).images for engine in ("auto", "reference"))
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_channels_beyond_three_are_saved_and_shown_but_are_no_pictures(tmp_path: Path) -> None:
    condensed = fastdc.coresets.random((np.random.default_rng(1).integers(0, 256, (20, 4, 8, 8)).astype(np.uint8), np.arange(20) % 2), 2)
    condensed.save(tmp_path / "c.safetensors")
    assert torch.equal(fastdc.CondensedDataset.load(tmp_path / "c.safetensors").images, condensed.images)
    condensed.save_grid(tmp_path / "c.png")
    with pytest.raises(UsageError, match="4 channels are no pictures"):
        condensed.to_folder(tmp_path / "folder")


def test_images_of_one_colour_have_a_deviation_of_one() -> None:
    data = as_image_data((np.full((4, 8, 8), 51, np.uint8), [0, 1, 0, 1]))
    assert (data.mean, data.std) == (pytest.approx((0.2,)), (1.0,))


# datasets


class Items(Dataset[Any]):
    def __init__(self, items: Any, **attributes: Any) -> None:
        self.items = items
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class ClassLabel:
    names = ("ant", "bee")


@pytest.mark.parametrize(
    "keys", [("image", "label"), ("img", "fine_label"), ("pixel_values", "labels"), ("photo", "target"), ("image", "y")]
)
def test_items_may_be_dicts(keys: tuple[str, str]) -> None:
    items = [{"id": i, keys[0]: picture(i), keys[1]: i % 2} for i in range(6)]
    data = as_image_data(Items(items, features={keys[1]: ClassLabel()}))
    assert data.labels.tolist() == [0, 1] * 3
    assert data.images[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]
    assert data.class_names == ("ant", "bee")


def test_parts_of_datasets_are_read_with_their_class_names() -> None:
    whole = Items([(picture(i), i % 2) for i in range(10)], classes=["ant", "bee"])
    part = as_image_data(Subset(whole, [1, 2, 5]))
    assert (part.labels.tolist(), part.images[:, 0, 0, 0].tolist()) == ([1, 0, 1], [10, 20, 50])
    assert part.class_names == ("ant", "bee")
    assert len(as_image_data(ConcatDataset([whole, whole]))) == 20
    halves = torch.utils.data.random_split(whole, [7, 3], torch.Generator().manual_seed(1))
    assert sum(len(as_image_data(half, num_classes=2)) for half in halves) == 10


@pytest.mark.parametrize(
    "kind", [int, np.int64, torch.tensor, str, bool, float, np.float32, lambda n: torch.eye(2)[n], lambda n: np.array([n])]
)
def test_labels_of_items_of_any_type_are_taken(kind: Any) -> None:
    assert as_image_data(Items([(picture(i), kind(i % 2)) for i in range(6)])).labels.tolist() == [0, 1] * 3


# labels


@pytest.mark.parametrize(
    "labels",
    [
        LABELS[:, None],
        LABELS.astype(bool),
        LABELS.astype(np.float32),
        LABELS.astype(np.uint64),
        LABELS.astype(">i2"),
        LABELS.astype(object),
        np.eye(2)[LABELS],
        torch.eye(2, dtype=torch.long)[torch.from_numpy(LABELS)],
        torch.from_numpy(LABELS)[:, None].half(),
        LABELS.tolist(),
        [np.int8(label) for label in LABELS],
        [torch.tensor(label) for label in LABELS],
        tuple(LABELS),
        range(2),
    ],
    ids=str,
)
def test_numbers_of_every_kind_are_labels(labels: Any) -> None:
    count = len(labels)
    data = as_image_data((IMAGES[:count], labels))
    assert data.labels.dtype == torch.int64
    assert data.labels.tolist() == LABELS[:count].tolist()


@pytest.mark.parametrize("names", [("ant", "bee"), ("2", "10"), ("katze", "käfer"), ("a b", "a c")])
@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, lambda v: np.array(v, object), lambda v: np.array(v)[:, None], lambda v: np.char.encode(v)]
)
def test_names_are_labels_in_natural_order(names: tuple[str, str], kind: Any) -> None:
    data = as_image_data((IMAGES, kind([names[label] for label in LABELS])))
    ordered = tuple(sorted(names, key=natural))
    assert data.class_names == ordered
    assert [ordered[label] for label in data.labels] == [names[label] for label in LABELS]


def test_a_test_set_is_numbered_by_the_names_of_the_condensed_one() -> None:
    condensed = fastdc.coresets.random((IMAGES, np.array(["bee", "ant"])[LABELS]), 2)
    assert condensed.class_names == ("ant", "bee")
    options: dict[str, Any] = {"model": "mlp:width=8", "networks": 1, "epochs": 3}
    bees = fastdc.evaluate(condensed, (IMAGES[::2], ["bee"] * 20), **options)
    assert bees.accuracies == fastdc.evaluate(condensed, (IMAGES[::2], [1] * 20), **options).accuracies
    with pytest.raises(DataError, match="'cow' is no class; expected one of ant, bee"):
        fastdc.evaluate(condensed, (IMAGES[::2], ["cow"] * 20), **options)


def test_tables_of_pandas_are_labels() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"label": np.arange(50) % 2, "name": np.array(["ant", "bee"])[np.arange(50) % 2]}).drop(index=range(3, 13))
    expected = frame["label"].to_numpy().tolist()
    for labels in (frame["label"], frame[["label"]], frame["name"], frame["name"].astype("category"), frame["label"].astype("Int64")):
        assert as_image_data((IMAGES, labels)).labels.tolist() == expected


def test_things_that_numpy_makes_an_array_of_are_labels() -> None:
    class Column:
        """As a pandas Series after rows were dropped: its index is not 0, 1, 2."""

        def __len__(self) -> int:
            return 40

        def __getitem__(self, index: int) -> int:
            raise KeyError(index)

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return LABELS

    assert as_image_data((IMAGES, Column())).labels.tolist() == LABELS.tolist()


def test_labels_without_any_are_none() -> None:
    numbers, names = labels_and_names([])
    assert (numbers.tolist(), names) == ([], None)


# small classes


def uneven() -> tuple[Any, Any]:
    return IMAGES, np.array([0] * 37 + [1] * 3)


def test_a_small_class_gives_all_it_has() -> None:
    with pytest.warns(UserWarning, match="ipc is 10, but some classes have fewer images and give all that they have: '1' 3"):
        assert fastdc.coresets.random(uneven(), 10).ipc == (10, 3)
    with pytest.warns(UserWarning, match="fewer"):
        assert fastdc.coresets.herding(uneven(), 5, features="pixels").ipc == (5, 3)
    with pytest.warns(UserWarning, match="fewer"):
        assert fastdc.coresets.k_center(uneven(), 5, features="pixels").ipc == (5, 3)
    with pytest.raises(UsageError, match="from 1 to 37, the number of images of class '0'"):
        fastdc.coresets.random(uneven(), 38)
    with pytest.raises(UsageError, match="ipc is 4 for class '1'; expected a whole number from 1 to 3"):
        fastdc.coresets.random(uneven(), [4, 4])


@pytest.mark.parametrize("formation", ["plain", "tiles:factor=2", "frequency:images=3", "frequency"])
@pytest.mark.parametrize("init", ["real", "kmeans"])
def test_a_small_class_starts_from_all_it_has(formation: str, init: str) -> None:
    options: dict[str, Any] = {"iterations": 1, "matching_steps": 1, "model": "mlp:width=8", "batch_real": 4, "progress": False}
    images = IMAGES[:, :, :4, :4] if formation == "tiles:factor=2" else IMAGES
    labels = np.array([0] * 35 + [1] * 5)
    with pytest.warns(UserWarning, match="fewer images and give all"):
        condensed = fastdc.condense((images, labels), 6, init=init, formation=formation, **options)
    assert condensed.ipc[0] == 6  # type: ignore[index]
    assert condensed.ipc[1] == {"plain": 5, "frequency": 5}.get(formation, 1)  # type: ignore[index]


def test_from_noise_every_class_gets_as_many_as_are_wanted() -> None:
    options: dict[str, Any] = {"iterations": 1, "matching_steps": 1, "model": "mlp:width=8", "batch_real": 4, "progress": False}
    assert fastdc.condense(uneven(), 10, **options).ipc == 10


def test_the_command_line_compares_with_what_a_small_class_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = uneven()
    np.savez(tmp_path / "a.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    command = [
        "condense",
        "--dataset",
        f"npz:{tmp_path / 'a.npz'}",
        "--ipc",
        "10",
        "--iterations",
        "1",
        "--model",
        "mlp:width=8",
        "--quiet",
    ]
    assert main([*command, "--networks", "1", "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    assert "random: classes with fewer images than ipc give all that they have" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["results"]["random"]["images"] == 13


# pictures of learned images


def test_pictures_that_are_read_back_are_those_that_were_written(tmp_path: Path) -> None:
    data = as_image_data((IMAGES, np.array(["ant", "bee"])[LABELS]))
    chosen = fastdc.coresets.random(data, 3)
    assert chosen.clipped == 0
    chosen.to_folder(tmp_path / "pictures")
    back = fastdc.CondensedDataset.from_folder(tmp_path / "pictures", mean=data.mean, std=data.std)
    torch.testing.assert_close(back.images, chosen.images, rtol=0, atol=1e-6)
    assert (back.class_names, back.labels.tolist()) == (("ant", "bee"), chosen.labels.tolist())
    own = fastdc.CondensedDataset.from_folder(tmp_path / "pictures")
    assert own.images.mean().abs() < 1e-5
    with pytest.raises(MissingFileError, match="is missing; expected a folder with one subfolder per class"):
        fastdc.CondensedDataset.from_folder(tmp_path / "nothing")


def test_pixels_that_no_picture_holds_are_said(tmp_path: Path) -> None:
    images = torch.tensor([-0.5, 0.25, 0.75, 1.5]).view(1, 1, 2, 2).repeat(2, 1, 1, 1)
    condensed = fastdc.CondensedDataset(images, torch.tensor([0, 1]), mean=[0.0], std=[1.0], class_names=["a", "b"])
    assert condensed.clipped == 0.5
    with pytest.warns(UserWarning, match=r"50\.0% of the pixel values lie outside 0\.\.1 and were cut off .* what is read back is not"):
        condensed.to_folder(tmp_path / "pictures")
    read = fastdc.CondensedDataset.load(tmp_path / "pictures", mean=[0.0], std=[1.0])
    seen = condensed.as_pictures()
    assert torch.equal(seen.images, read.images)
    assert seen.clipped == 0
    torch.testing.assert_close(seen.images[0, 0].flatten(), torch.tensor([0.0, 64 / 255, 191 / 255, 1.0]))


def test_the_command_says_what_pictures_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits = fastdc.coresets.random("digits", 1)
    said = {"mean": digits.mean, "std": digits.std, "class_names": digits.class_names, "provenance": digits.provenance}
    fastdc.CondensedDataset(3 * digits.images, digits.labels, **said).save(tmp_path / "c.safetensors")
    options = ["--model", "mlp:width=8", "--networks", "1", "--epochs", "5", "--quiet"]
    assert main(["evaluate", str(tmp_path / "c.safetensors"), "--pictures", *options]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["condensed", "pictures"]
    assert main(["show", str(tmp_path / "c.safetensors")]) == 0
    assert "lie outside 0..1 and are cut off here" in capsys.readouterr().out


def test_suffixes_are_said_where_a_class_has_no_image(tmp_path: Path) -> None:
    make(tmp_path / "train")
    (tmp_path / "train" / "cow").mkdir()
    (tmp_path / "train" / "cow" / "0.svg").write_text("<svg/>")
    with pytest.raises(DataError, match=r"cow holds no image \(\.png, .*give every class one"):
        fastdc.load_dataset(f"folder:{tmp_path}")
    assert ".svg" not in labelled_pictures.SUFFIXES
