"""Every bad input gets a sentence in one line: what was given, what was expected, what to do."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import math
import os
import pickle
import shutil
import struct
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import IDX_FILES, Items, idx_bytes
from PIL import Image, features
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import fastdc
from fastdc.condensed import CondensedDataset
from fastdc.data import ImageData, as_image_data
from fastdc.data.sources import named
from fastdc.data.sources.idx import read_idx
from fastdc.errors import DataError, FastdcError, MissingFileError, RunError, UsageError
from fastdc.metrics import METRICS
from fastdc.models import build

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
LABELS = np.arange(40) % 2
FLOATS = torch.from_numpy(IMAGES).float() / 255


@contextlib.contextmanager
def refusal(error, match):
    """Expect exactly this type of error (or one of these), its text a line that matches."""
    kinds = error if isinstance(error, tuple) else (error,)
    with pytest.raises(FastdcError, match=match) as caught:
        yield
    assert type(caught.value) in kinds
    assert "\n" not in str(caught.value)


def case(name, *values):
    return pytest.param(*values, id=name)


def condense(data=(IMAGES, LABELS), ipc=1, **options):
    return fastdc.condense(data, ipc, **{"model": "mlp:width=4", "iterations": 1, "batch_real": 4, "progress": False, **options})


def tensors(**changes):
    """The arguments of a good ImageData, with changes."""
    good = {
        "images": torch.from_numpy(IMAGES),
        "labels": torch.from_numpy(LABELS),
        "num_classes": 2,
        "class_names": ("ant", "bee"),
        "mean": (0.5,),
        "std": (0.25,),
    }
    return {**good, **changes}


def image_data(**changes):
    return ImageData(**tensors(**changes))


def test_what_the_bad_inputs_are_variations_of_is_good():
    assert len(condense()) == 2
    assert len(image_data()) == 40
    assert 0 <= evaluate().mean <= 1
    assert fastdc.GradientMatcher(linear())(SYNTHETIC, REAL)[0].item() > 0
    assert len(condensed_of()) == 4


# images and labels


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(IMAGES[0], 0), (IMAGES[1], 1)])


@pytest.mark.parametrize(
    ("images", "match"),
    [
        case("NaN", FLOATS.clone().index_fill_(0, torch.tensor([7]), math.nan), r"image 7 has pixels from nan.*finite"),
        case("infinite", FLOATS.clone().index_fill_(0, torch.tensor([7]), math.inf), r"image 7 has pixels from inf.*finite"),
        case("normalised", (FLOATS - 0.5) / 0.2, r"pixels from -.*expected finite float pixels in 0\.\.1, before any normalisation"),
        case("float in 0..255", FLOATS * 255, r"pixels from .*0\.\.1.*uint8"),
        case("whole numbers", IMAGES.astype(np.int64), r"images are torch\.int64; expected uint8"),
        case("truth values", IMAGES > 127, r"images are torch\.bool; expected uint8"),
        case("complex", FLOATS.to(torch.complex64), r"images are torch\.complex64"),
        case("objects", np.array([None] * 40), "images cannot be read as an array"),
        case("text", ["a"] * 40, "images cannot be read as an array"),
        case("nothing", None, "images cannot be read as an array"),
        case("rank 1", IMAGES.ravel()[:40], r"shape \[40\]; expected \[N, channels, H, W\]"),
        case("rank 2", IMAGES.reshape(40, 64), r"shape \[40, 64\]; expected \[N, channels, H, W\]"),
        case("rank 5", IMAGES[..., None], r"shape \[40, 1, 8, 8, 1\]; expected \[N, channels, H, W\]"),
        case("none", IMAGES[:0], r"shape \[0, 1, 8, 8\]: there are none"),
        case("no pixels", IMAGES[..., :0], "there are none"),
    ],
)
def test_images_that_cannot_be_used(images, match):
    with refusal(DataError, match):
        condense((images, LABELS))


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        case("fewer", LABELS[:30], r"40 images and 30 labels"),
        case("more", np.arange(50) % 2, r"40 images and 50 labels"),
        case("none", LABELS[:0], r"40 images and 0 labels"),
        case("negative", LABELS - 1, "label -1 is negative; expected labels from 0"),
        case("fractions", LABELS + np.float32(0.5), r"label 0 is 0\.5; expected one whole class number"),
        case("NaN", np.full(40, math.nan), "label 0 is nan; expected one whole class number"),
        case("infinite", [0.0, 1, math.inf] * 13 + [1], "label 2 is inf; expected one whole class number"),
        case("a missing one", [0, 1, None, 1] * 10, "label 2 is None; expected one whole class number"),
        case("a missing name", ["a", "b", math.nan, "b"] * 10, "label 2 is nan; expected one whole class number"),
        case("names and numbers", ["a", 1] * 20, "some labels are text and some are not"),
        case("complex", LABELS * 1j, "labels are complex128; expected one whole class number"),
        case("dates", LABELS.astype("datetime64[D]"), "labels are datetime64.*; expected one whole class number"),
        case("huge", LABELS.astype(np.uint64) + np.uint64(2**63), "label 9223372036854775809 is too large"),
        case("a gap without end", LABELS * 10**12, r"class 1, 2, 3, 4, 5\.\.\. has no image"),
        case("a gap", LABELS * 2, "class 1 has no image; number the classes 0, 1, 2"),
        case("several gaps", LABELS * 9, r"class 1, 2, 3, 4, 5\.\.\. has no image"),
        case("not from 0 on", LABELS + 1, "class 0 has no image; number the classes 0, 1, 2"),
        case("one class", LABELS * 0, "all labels are 0; expected two classes"),
        case("soft", np.full((40, 2), 0.5), r"label 0 is 0\.5; expected one whole class number"),
        case("two columns", np.stack([LABELS, LABELS], 1), r"labels have shape \[40, 2\] and are no one-hot rows; .* argmax"),
        case("rank 3", LABELS[:, None, None], r"labels have shape \[40, 1, 1\]; expected one whole class number"),
        case("names in columns", np.array([["ant", "bee"]] * 40), r"labels have shape \[40, 2\]; expected one whole class number"),
        case("one name", ["ant"] * 40, "all labels are 0; expected two classes"),
        case("nothing", None, "label 0 is None"),
        case("rows of several lengths", [[0], [0, 1]] * 20, "labels cannot be read as an array"),
    ],
)
def test_labels_that_cannot_be_used(labels, match):
    with refusal(DataError, match):
        condense((IMAGES, labels))


@pytest.mark.parametrize(
    ("data", "match"),
    [
        case("nothing", None, "data is a NoneType; expected the name of a dataset"),
        case("a number", 3, "data is a int; expected the name of a dataset"),
        case("images alone", IMAGES, "data is a ndarray; expected .*a pair"),
        case("a tensor alone", FLOATS, "data is a Tensor; expected .*a pair"),
        case("a dict", {"images": IMAGES, "labels": LABELS}, "data is a dict; expected .*a pair"),
        case("a path", Path("train.npz"), "data is a PosixPath; expected the name of a dataset"),
        case("an iterable dataset", Stream(), "data is a Stream; expected .*map-style"),
        case("a loader", DataLoader(Items([(IMAGES[0], 0)])), "data is a DataLoader; expected .*map-style"),
        case("an unknown name", "fasion-mnist", "unknown dataset 'fasion-mnist'. Did you mean 'fashion-mnist'"),
    ],
)
def test_what_is_no_data_at_all(data, match):
    with refusal(UsageError, match):
        condense(data)


@pytest.mark.parametrize(
    ("items", "match"),
    [
        case("none", [], "the Items given is empty"),
        case("no pairs", [IMAGES[0], IMAGES[1]], "item 0 of the Items is a ndarray; expected .image, label."),
        case("dicts", [{"image": IMAGES[0]}], "item 0 of the Items is a dict with 'image'; expected .image, label., or a dict with both"),
        case("one without a label", [(IMAGES[0], 0), (IMAGES[1],)], "item 1 of the Items is a tuple; expected .image, label."),
        case(
            "two sizes", [(IMAGES[0], 0), (IMAGES[1, :, :6], 1)], r"image 1 has shape \[1, 6, 8\], image 0 \[1, 8, 8\]; give image_size=N"
        ),
        case("grey and RGB", [(IMAGES[0], 0), (np.repeat(IMAGES[1], 3, 0), 1)], r"image 1 has shape \[3, 8, 8\], image 0 \[1, 8, 8\]"),
        case("normalised", [(FLOATS[0], 0), (FLOATS[1] - 0.5, 1)], r"image 1 of the dataset: .*0\.\.1, before any normalisation"),
        case("rank 4", [(IMAGES[:1], 0)], r"image 0 .* has shape \[1, 1, 8, 8\]; expected \[channels, H, W\]"),
        case("no image", [(None, 0)], r"image 0 .*expected \[channels, H, W\]"),
        case("fractions", [(IMAGES[0], 0.0), (IMAGES[1], 0.5)], "label 1 is 0.5; expected one whole class number"),
        case("soft labels", [(IMAGES[i], torch.full((2,), 0.5)) for i in (0, 1)], "the label of item 0 has 2 elements; expected one class"),
        case("a name of no key", [{"photo": IMAGES[0], "label": 0}], "a dict with 'photo', 'label'; expected"),
        case("negative labels", [(IMAGES[0], 0), (IMAGES[1], -1)], "label -1 is negative"),
        case("a gap", [(IMAGES[0], 0), (IMAGES[1], 2)], "class 1 has no image"),
    ],
)
def test_a_torch_dataset_that_cannot_be_used(items, match):
    with refusal(DataError, match):
        as_image_data(Items(items))


def test_a_condensed_dataset_is_normalised_and_no_real_data():
    with refusal(DataError, "before any normalisation"):
        condense(condensed_of())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        case("float images", {"images": FLOATS}, r"images are torch\.float32 .*expected uint8 \[N, channels, H, W\]"),
        case("images without channels", {"images": torch.from_numpy(IMAGES[:, 0])}, r"shape \[40, 8, 8\]; expected uint8"),
        case("two channels", {"images": torch.from_numpy(IMAGES).expand(-1, 2, -1, -1)}, "mean .* for each of 2 channels"),
        case("no channel", {"images": torch.from_numpy(IMAGES)[:, :0]}, r"images are torch\.uint8 of shape \[40, 0, 8, 8\]"),
        case("numpy images", {"images": IMAGES}, "(?i)tensor|numpy"),
        case("numpy labels", {"labels": LABELS}, "(?i)tensor|numpy"),
        case("int32 labels", {"labels": torch.from_numpy(LABELS).int()}, r"labels are torch\.int32; expected int64"),
        case("fewer labels", {"labels": torch.from_numpy(LABELS[:3])}, r"labels have shape \[3\] for 40 images"),
        case("labels beyond", {"num_classes": 1, "class_names": ("a",)}, "labels go from 0 to 1; expected 0 to 0 for 1 classes"),
        case("negative labels", {"labels": torch.from_numpy(LABELS) - 1}, "labels go from -1 to 0"),
        case("no images", {"images": torch.zeros(0, 1, 8, 8, dtype=torch.uint8), "labels": torch.zeros(0).long()}, "there are no images"),
        case("a missing name", {"class_names": ("ant",)}, "1 class names for 2 classes"),
        case("two means", {"mean": (0.5, 0.5)}, r"mean is \(0\.5, 0\.5\); expected one finite number for each of 1 channels"),
        case("NaN as mean", {"mean": (math.nan,)}, "mean is .nan,.; expected one finite number"),
        case("a mean without its channel", {"mean": 0.5}, "mean is 0.5; expected one"),
        case("infinite std", {"std": (math.inf,)}, "std is .inf,.; expected one finite number"),
        case("std of 0", {"std": (0.0,)}, "std is .0.0,.; expected numbers above 0"),
        case("negative std", {"std": (-1.0,)}, "std is .-1.0,.; expected numbers above 0"),
        case("a number as text", {"num_classes": "2"}, "num_classes is '2'"),
    ],
)
def test_an_image_data_whose_parts_do_not_fit_together(changes, match):
    with refusal((DataError, UsageError), match):
        image_data(**changes)


@pytest.mark.parametrize(
    "use",
    [
        case("noise", condense),
        case("real images", lambda data: condense(data, init="real")),
        case("coreset", lambda data: fastdc.coresets.random(data, 1)),
    ],
)
def test_a_class_without_any_image_is_named_and_no_impossible_ipc_advised(use):
    data = image_data(num_classes=3, class_names=("ant", "bee", "cow"))
    with pytest.raises((DataError, UsageError), match=r"class 'cow' has (no|0) images?") as caught:
        use(data)
    assert "1 to 0" not in str(caught.value)
    assert "0 or less" not in str(caught.value)


# names of datasets


@pytest.mark.parametrize(
    ("name", "match"),
    [
        case("unknown", "imagenet", "unknown dataset 'imagenet'.* Known: cifar10, .*usps"),
        case("misspelt", "cifar-10", "Did you mean 'cifar10'"),
        case("upper case", "Digits", "Did you mean 'digits'"),
        case("empty", "", "unknown dataset ''"),
        case("None", None, "None"),
        case("with a path", "digits:/tmp", "unknown dataset 'digits:/tmp'"),
        case("folder without a path", "folder:", "'folder:' names no path; write folder:PATH"),
        case("npz without a path", "npz:", "'npz:' names no path; write npz:PATH"),
        case("a path", Path("data.npz"), "PosixPath|npz:"),
    ],
)
def test_a_dataset_that_is_not_known(name, match):
    with refusal(UsageError, match):
        fastdc.load_dataset(name)


# folders


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "test"):
        for c, name in enumerate(("ant", "bee")):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(3):
                Image.fromarray(IMAGES[2 * i + c, 0]).save(tmp_path / split / name / f"{i}.png")
    return tmp_path


def empty(path):
    shutil.rmtree(path)
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "error", "match"),
    [
        case("missing", shutil.rmtree, MissingFileError, "is missing; expected a folder with train/ and test/"),
        case("no train", lambda f: shutil.rmtree(f / "train"), MissingFileError, "train is missing beside test/; expected both"),
        case("no class", lambda f: empty(f / "train"), MissingFileError, "train is missing beside test/; expected both"),
        case("nothing", empty, DataError, "has no subfolder; expected one for each class"),
        case("an empty class", lambda f: empty(f / "train" / "bee"), DataError, "train/bee holds no image .*; give every class one"),
        case("an empty class in test", lambda f: empty(f / "test" / "bee"), DataError, "test.*bee|bee.*test"),
        case(
            "another class in test",
            lambda f: (f / "test" / "bee").rename(f / "test" / "cow"),
            DataError,
            "test/ of .* has the classes cow, train/ has not",
        ),
        case("one class", lambda f: [shutil.rmtree(f / s / "bee") for s in ("train", "test")], DataError, "expected two classes"),
        case("text as image", lambda f: (f / "train/bee/1.png").write_text("hello"), DataError, r"bee/1\.png cannot be read as an image"),
        case("an empty image", lambda f: (f / "test/ant/0.png").write_bytes(b""), DataError, r"test/ant/0\.png cannot be read as an image"),
        case(
            "another size",
            lambda f: Image.new("L", (9, 8)).save(f / "test/ant/2.png"),
            DataError,
            r"2\.png is 9x8 pixels, .* 8x8; give image_size",
        ),
    ],
)
def test_a_folder_that_cannot_be_used(folder, damage, error, match):
    damage(folder)
    with refusal(error, match):
        fastdc.load_dataset(f"folder:{folder}")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff"])
def test_an_image_cut_short_is_named(folder, suffix):
    path = folder / "train" / "bee" / f"9.{suffix}"
    Image.fromarray(IMAGES[0, 0]).save(path)
    whole = path.read_bytes()
    for length in (1, 20, len(whole) // 2, len(whole) * 3 // 4):
        path.write_bytes(whole[:length])
        with refusal(DataError, rf"bee/9\.{suffix} cannot be read as an image .*; replace it or remove it"):
            fastdc.load_dataset(f"folder:{folder}")


def test_what_pil_would_read_by_another_program_is_no_picture_here(folder, monkeypatch):
    def run(*_args, **_kwargs):
        raise AssertionError("Ghostscript was called")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", run)
    (folder / "train/bee/1.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    with refusal(DataError, r"bee/1\.png cannot be read as an image \(cannot identify image file"):
        fastdc.load_dataset(f"folder:{folder}")


@pytest.mark.parametrize(
    ("sides", "match"),
    [
        case("many", (9000, 8000), r"bee/1\.png: it is 9000x8000 pixels; expected 64 million at most: make it smaller"),
        case("a bomb", (1 << 20, 1 << 20), r"bee/1\.png cannot be read as an image \(Image size .* exceeds limit"),
        case("a side without end", (0x7FFFFFFF, 1), r"bee/1\.png"),
    ],
)
@pytest.mark.filterwarnings("ignore:Image size")
def test_a_picture_that_declares_too_many_pixels_is_named_before_it_is_read(folder, sides, match):
    path = folder / "train/bee/1.png"
    content = path.read_bytes()
    header = b"IHDR" + struct.pack(">II", *sides) + content[24:29]
    path.write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])
    with refusal(DataError, match):
        fastdc.load_dataset(f"folder:{folder}")


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_text_of_a_picture_that_unpacks_without_end_is_refused_by_name(folder, kind):
    path = folder / "train/bee/1.png"
    content, packed = path.read_bytes(), zlib.compress(bytes(1 << 26), 1)
    chunk = kind + b"k\0" + {b"zTXt": b"\0", b"iTXt": b"\1\0\0\0", b"iCCP": b"\0"}[kind] + packed
    path.write_bytes(content[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:])
    with refusal(DataError, r"bee/1\.png cannot be read as an image \(Decompressed data too large.*; replace it or remove it"):
        fastdc.load_dataset(f"folder:{folder}")


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_an_avif_with_a_changed_byte_is_named_where_its_library_refuses_it(folder):
    path = folder / "train" / "bee" / "9.avif"
    Image.fromarray(IMAGES[0, 0]).convert("RGB").save(path)
    whole, said = path.read_bytes(), []
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        with contextlib.suppress(DataError):
            try:
                fastdc.load_dataset(f"folder:{folder}")
            except DataError as error:
                said.append(str(error))
    assert len(said) > 10
    assert all("bee/9.avif" in text for text in said)


# npz archives


GOOD_NPZ = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:4], "y_test": LABELS[:4]}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        case("no y_test", {"y_test": None}, "holds x_train, y_train, x_test; expected x_train, y_train, x_test, y_test or train_images"),
        case("fewer labels", {"y_train": LABELS[:3]}, "3.* 40 images"),
        case("fewer test labels", {"y_test": LABELS[:3]}, "3.* 4 images"),
        case("a gap", {"y_train": LABELS * 2}, "class 1 has no image"),
        case("a class that training lacks", {"y_test": LABELS[:4] + 4}, "labels go from 4 to 5; expected 0 to 1"),
        case("negative", {"y_train": LABELS - 1}, "label -1 is negative"),
        case("fractions", {"y_train": LABELS / 2}, "label 1 is 0.5; expected one whole class number"),
        case("names in one half", {"y_train": np.array(["ant", "bee"] * 20)}, "names in one half and numbers in the other"),
        case("NaN", {"x_train": IMAGES * math.nan}, "image 0 has pixels from nan"),
        case("two channels", {"x_train": np.repeat(IMAGES, 2, 1)}, r"are \[2, 8, 8\] and test images \[1, 8, 8\]"),
        case("rank 2", {"x_train": IMAGES.reshape(40, 64)}, r"\[40, 64\]; expected \[N, channels, H, W\]"),
        case("another size in test", {"x_test": IMAGES[:4, :, :6]}, r"\[1, 8, 8\] and test images \[1, 6, 8\]; expected the same size"),
        case("objects", {"y_train": np.array([None] * 40)}, "is not an .npz archive"),
        case("no image", {"x_test": IMAGES[:0], "y_test": LABELS[:0]}, "there are none"),
    ],
)
def test_an_npz_archive_that_cannot_be_used(tmp_path, changes, match):
    arrays = {key: array for key, array in {**GOOD_NPZ, **changes}.items() if array is not None}
    np.savez(tmp_path / "a.npz", **arrays)
    with refusal(DataError, match):
        fastdc.load_dataset(f"npz:{tmp_path / 'a.npz'}")


def test_a_missing_npz_archive(tmp_path):
    with refusal(MissingFileError, r"nowhere\.npz is missing"):
        fastdc.load_dataset(f"npz:{tmp_path / 'nowhere.npz'}")


def npy_bytes(path):
    np.save(path.with_suffix(".npy"), IMAGES)
    return path.with_suffix(".npy").read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        case("empty", lambda path: b""),
        case("text", lambda path: b"hello world"),
        case("a pickle", lambda path: pickle.dumps({"x_train": 1})),
        case("one array", npy_bytes),
    ],
)
def test_a_file_that_is_no_npz_archive(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content(tmp_path / "a.npz"))
    with refusal(DataError, r"a\.npz is not an \.npz archive"):
        fastdc.load_dataset(f"npz:{tmp_path / 'a.npz'}")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_archive_cut_short_anywhere_is_refused(tmp_path, save):
    save(tmp_path / "a.npz", **GOOD_NPZ)
    whole = (tmp_path / "a.npz").read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        (tmp_path / "a.npz").write_bytes(whole[:length])
        with refusal(DataError, r"a\.npz is not an \.npz archive .*cut short"):
            fastdc.load_dataset(f"npz:{tmp_path / 'a.npz'}")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_archive_with_a_changed_byte_is_refused_or_gives_the_same_images(tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, **{key: array[:6] for key, array in GOOD_NPZ.items()})
    whole = path.read_bytes()
    expected = [part.fingerprint for part in fastdc.load_dataset(f"npz:{path}")]
    for position in range(0, len(whole), 2):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        with contextlib.suppress(DataError):
            assert [part.fingerprint for part in fastdc.load_dataset(f"npz:{path}")] == expected


@pytest.mark.parametrize(
    "header",
    [
        case("half a tuple", "{'descr': '|u1', 'fortran_order': False, 'shape': (4,"),
        case("a quote too many", "{'descr': '|u1', 'fortran_order': False, 'shape': (4,)\" }"),
        case("digits without end", "{'descr': '|u1', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",)}"),
        case("brackets without end", "[" * 5000),
    ],
)
def test_headers_of_arrays_that_numpy_stumbles_over_are_refused(tmp_path, header):
    array = b"\x93NUMPY\x02\0" + struct.pack("<I", len(header)) + header.encode() + bytes(4)
    for names, read in (
        (GOOD_NPZ, lambda: fastdc.load_dataset(f"npz:{tmp_path / 'a.npz'}")),
        (("images", "labels"), lambda: CondensedDataset.load(tmp_path / "a.npz", mean=[0.5], std=[0.5])),
    ):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            for name in names:
                archive.writestr(f"{name}.npy", array)
        with refusal(DataError, r"a\.npz is not an \.npz archive of .* \("):
            read()


def test_arrays_that_are_no_images_or_labels_are_refused_with_the_name_of_the_archive(tmp_path):
    for changes in ({"y_train": LABELS - 1}, {"y_train": LABELS[:, None, None]}, {"x_train": IMAGES.astype(np.int8)}):
        np.savez(tmp_path / "a.npz", **{**GOOD_NPZ, **changes})
        with refusal(DataError, r"a\.npz: (label|images)"):
            fastdc.load_dataset(f"npz:{tmp_path / 'a.npz'}")


# idx files


@pytest.fixture(params=["", ".gz"], ids=["plain", "gzipped"])
def idx_root(request, tmp_path, monkeypatch):
    """A root with a small FashionMNIST, no other copy of it anywhere, and no internet: (root, path of a file, compress)."""

    def refuse(*_args, **_kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(named, "DEBIAN_FASHION_MNIST", tmp_path / "nowhere")
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    compress = gzip.compress if request.param else bytes
    for stem, array in zip(IDX_FILES, (IMAGES[:20, 0], np.arange(20) % 10, IMAGES[:10, 0], np.arange(10)), strict=True):
        (raw / f"{stem}{request.param}").write_bytes(compress(idx_bytes(array)))
    return tmp_path, lambda stem: raw / f"{stem}{request.param}", compress


def test_the_small_idx_files_that_are_damaged_below_are_good(idx_root):
    train, test = fastdc.load_dataset("fashion-mnist", idx_root[0])
    assert (len(train), len(test)) == (20, 10)


@pytest.mark.parametrize("stem", IDX_FILES)
def test_a_missing_idx_file_is_said_to_be_missing(idx_root, stem):
    root, path, _ = idx_root
    path(stem).unlink()
    with refusal(MissingFileError, f"{stem}.*missing|fashion-mnist is not in"):
        fastdc.load_dataset("fashion-mnist", root)


@pytest.mark.parametrize("stem", IDX_FILES[:2])
def test_an_idx_file_cut_short_anywhere_is_refused_by_name(idx_root, stem):
    root, path, _ = idx_root
    whole = path(stem).read_bytes()
    for length in [*range(20), *range(20, len(whole), 101), len(whole) - 1]:
        path(stem).write_bytes(whole[:length])
        with refusal(DataError, rf"{stem}.*fetch it again"):
            fastdc.load_dataset("fashion-mnist", root)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        case("no images", idx_bytes(IMAGES[:0, 0]), "holds 0|no image|there are none|shape .0"),
        case("another type", bytes((0, 0, 13, 3)) + idx_bytes(IMAGES[:20, 0])[4:], "does not begin like an idx file of unsigned bytes"),
        case("text", b"hello world", "does not begin like an idx file"),
        case("rank 0", bytes((0, 0, 8, 0)), "header declares"),
        case("too long", idx_bytes(IMAGES[:20, 0]) + b"\0", "more than 1280 bytes of data where its header declares 1280"),
        case("huge", bytes((0, 0, 8, 3)) + b"\xff" * 12, "header declares"),
        case("labels in place of images", idx_bytes(np.arange(20)), "images"),
        case("fewer images", idx_bytes(IMAGES[:19, 0]), r"labels have shape \[20\] for 19 images"),
    ],
)
def test_an_idx_file_with_something_else_in_it_is_refused(idx_root, content, match):
    root, path, compress = idx_root
    path(IDX_FILES[0]).write_bytes(compress(content))
    with refusal(DataError, match):
        fastdc.load_dataset("fashion-mnist", root)


def test_a_gzipped_idx_file_with_a_changed_byte_is_refused_or_gives_the_same_images(tmp_path):
    from fastdc.data.sources.idx import read_idx

    whole = gzip.compress(idx_bytes(IMAGES[:2, 0]))
    for position in range(len(whole)):
        (tmp_path / "a.gz").write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        with contextlib.suppress(DataError):
            np.testing.assert_array_equal(read_idx(tmp_path / "a.gz"), IMAGES[:2, 0])


@pytest.mark.parametrize(
    "content",
    [b"", bytes((0, 0, 8, 9)), bytes((0, 0, 10, 1, 0, 0, 0, 0)), idx_bytes(IMAGES[:9, 0]), idx_bytes(LABELS)],
    ids=["empty", "dimensions", "type", "images", "labels"],
)
def test_idx_files_that_torchvision_stumbles_over_are_refused_by_name(tmp_path, content):
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    for stem in IDX_FILES:
        (tmp_path / "MNIST" / "raw" / stem).write_bytes(content)
    with refusal(DataError, f"mnist in {tmp_path} cannot be read .*; remove its files|{tmp_path}: "):
        fastdc.load_dataset("mnist", tmp_path)


def test_labels_of_idx_files_that_do_not_fit_are_refused_with_their_folder(tmp_path):
    (tmp_path / "FashionMNIST" / "raw").mkdir(parents=True)
    for stem in IDX_FILES:
        array = IMAGES[:10, 0] if "images" in stem else np.arange(10) % 3
        (tmp_path / "FashionMNIST" / "raw" / stem).write_bytes(idx_bytes(array))
    with refusal(DataError, f"{tmp_path}/FashionMNIST/raw: 10 class names for 3 classes"):
        fastdc.load_dataset("fashion-mnist", tmp_path)


# models


def linear(inputs=64, outputs=2):
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, outputs))


class Pair(nn.Module):
    """Returns logits and something else."""

    def __init__(self):
        super().__init__()
        self.inner = linear()

    def forward(self, images):
        return self.inner(images), images


class OnlyBiases(nn.Module):
    """A network whose gradients have no rows that the distance could see."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, images):
        return images.flatten(1)[:, :2] + self.bias


BAD_MODELS = [
    case("unknown", "resnet1000", "unknown model 'resnet1000'. Did you mean 'resnet18'.* Known: alexcifarnet"),
    case("misspelt", "convent", "unknown model 'convent'. Did you mean 'convnet'"),
    case("empty", "", "unknown model ''"),
    case("upper case", "ConvNet", "Did you mean 'convnet'"),
    case("unknown option", "convnet:widht=3", "unknown option of 'convnet' 'widht'. Did you mean 'width'"),
    case("an option of another", "mlp:depth=2", "unknown option of 'mlp' 'depth'.* Known: width"),
    case("an option of a model without any", "lenet:width=3", "model 'lenet' takes no options; 'lenet:width=3' gives width"),
    case("unknown norm", "convnet:norm=bach", "unknown norm 'bach'. Did you mean 'batch'"),
    case("a norm of another", "vgg11:norm=layer", "unknown norm 'layer'. .*Known: batch, instance"),
    case("unknown downsampling", "resnet18:downsampling=avg", "unknown downsampling 'avg'. Did you mean 'avgpool'"),
    case("unknown activation", "convnet:activation=gelu", "unknown activation 'gelu'.*Known: leaky_relu, relu, sigmoid, swish"),
    case("unknown pooling", "convnet:pooling=avrg", "unknown pooling 'avrg'. Did you mean 'avg'"),
    case("no value", "convnet:width", "cannot read 'width' in 'convnet:width': expected key=value"),
    case("an empty value", "convnet:width=", "cannot read 'width=' in .*: expected key=value"),
    case("no key", "convnet:=3", "cannot read '=3' in .*: expected key=value"),
    case("text as width", "convnet:width=wide", "width=wide in 'convnet:width=wide' is not a whole number"),
    case("half a width", "convnet:width=1.5", "width=1.5 in .* is not a whole number"),
    case("given twice", "convnet:width=4,width=5", "'width' is given twice"),
    case("another separator", "convnet:width=4;depth=2", "is not a whole number"),
    case("width 0", "convnet:width=0", "width 0 .*expected both to be 1 or more"),
    case("depth 0", "convnet:depth=0", "depth 0; expected both to be 1 or more"),
    case("negative depth", "convnet:depth=-1", "depth -1; expected both to be 1 or more"),
    case("mlp of width 0", "mlp:width=0", "mlp with width 0; expected 1 or more"),
    case("groups that do not divide", "convnet:norm=group,width=6", "4 groups, which a width of 6 does not allow"),
    case("too deep", "convnet:depth=4,width=4", "reduce a 8x8 image to nothing .*choose a depth of 3 or less, as in 'convnet:depth=3'"),
    case("images too small", "lenet", "lenet needs images of 16x16 pixels or more, and these are 8x8; enlarge them, or choose a model"),
    case("maps of one pixel", "resnet18", "resnet18 with instance norm and downsampling=stride needs images of 9x9 pixels or more"),
    case("None", None, "model is a NoneType; expected a name such as 'convnet', or a function"),
    case("a number", 3, "model is a int; expected a name"),
    case("a network", linear(), "model is a Sequential; expected .*a function"),
    case("returns nothing", lambda *_: None, "the model function returned a NoneType; expected an nn.Module"),
    case("returns a name", lambda *_: "convnet", "the model function returned a str; expected an nn.Module"),
    case("returns a class", lambda *_: nn.Linear, "the model function returned a type; expected an nn.Module"),
    case("three logits", lambda *_: linear(64, 3), r"maps 2 images to \[2, 3\]; expected logits of shape \[2, 2\]"),
    case("maps as logits", lambda *_: nn.Conv2d(1, 2, 3), r"maps 2 images to \[2, 2, 6, 6\]; expected logits of shape \[2, 2\]"),
    case("a pair as logits", lambda *_: Pair(), r"Pair maps 2 images to a tuple; expected logits of shape \[2, 2\]"),
    case("another image size", lambda *_: linear(63), "Sequential cannot take 1x8x8 images"),
    case("another dtype", lambda *_: linear().double(), "Sequential cannot take 1x8x8 images"),
    case("no parameters", lambda *_: nn.Sequential(nn.AvgPool2d((8, 4)), nn.Flatten()), "Sequential has no parameters"),
    case("uninitialised", lambda *_: nn.Sequential(nn.Flatten(), nn.LazyLinear(2)), "(?i)lazy|uninitiali[sz]ed"),
    case("only biases", lambda *_: OnlyBiases(), "OnlyBiases .*(two|2) dimensions"),
]


@pytest.mark.parametrize(("model", "match"), [each for each in BAD_MODELS if each.id != "None"])  # which is the recipe's
def test_a_model_that_cannot_be_condensed_on(model, match):
    with refusal(UsageError, match):
        condense(model=model)


@pytest.mark.parametrize(("model", "match"), [m for m in BAD_MODELS if m.id in ("unknown", "too deep", "a network", "three logits")])
def test_a_model_that_cannot_be_evaluated(model, match):
    with refusal(UsageError, match):
        evaluate(model=model)


@pytest.mark.parametrize(("size", "depth"), [((8, 8), 4), ((8, 3), 2), ((15, 40), 4), ((2, 2), 2)])
def test_the_depth_that_an_error_advises_works(size, depth):
    with pytest.raises(UsageError, match=rf"{size[0]}x{size[1]} image to nothing") as caught:
        fastdc.models.build(f"convnet:width=4,depth={depth}", 1, 2, size)
    advised = str(caught.value).split("'")[1]
    assert fastdc.models.build(f"{advised},width=4", 1, 2, size)(torch.zeros(3, 1, *size)).shape == (3, 2)


def test_an_image_too_small_for_any_pooling_is_not_told_to_choose_another_depth():
    with refusal(UsageError, "1x1 image to nothing.*pooling=none"):
        condense((IMAGES[..., :1, :1], LABELS), model="convnet:width=4")


# condense()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        case("ipc 0", {"ipc": 0}, "ipc is 0; expected a whole number of 1 or more"),
        case("negative ipc", {"ipc": -1}, "ipc is -1; expected a whole number of 1 or more"),
        case("ipc True", {"ipc": True}, "ipc is True; expected a whole number"),
        case("half an ipc", {"ipc": 1.5}, "ipc is 1.5; expected a whole number"),
        case("ipc as text", {"ipc": "10"}, "ipc is '10'; expected a whole number"),
        case("more than a class has", {"ipc": 21, "init": "real"}, "ipc is 21, but class '0' has 20 images.*20 or less, or init='noise'"),
        case("negative iterations", {"iterations": -5}, "iterations is -5; expected a whole number of 0 or more"),
        case("iterations as text", {"iterations": "5"}, "iterations is '5'"),
        case("no matching steps", {"matching_steps": 0}, "matching_steps is 0"),
        case("no model epochs", {"model_epochs": 0}, "model_epochs is 0"),
        case("no real images", {"batch_real": 0}, "batch_real is 0"),
        case("lr_images NaN", {"lr_images": math.nan}, "lr_images is nan; expected a finite number above 0"),
        case("lr_images infinite", {"lr_images": math.inf}, "lr_images is inf; expected a finite number above 0"),
        case("lr_images 0", {"lr_images": 0}, "lr_images is 0; expected a finite number above 0"),
        case("lr_images negative", {"lr_images": -0.1}, "lr_images is -0.1; expected a finite number above 0"),
        case("lr_images as text", {"lr_images": "0.1"}, "lr_images is '0.1'; expected a finite number above 0"),
        case("lr_model NaN", {"lr_model": math.nan}, "lr_model is nan; expected a finite number above 0"),
        case("method", {"method": ["dc"]}, r"method is \['dc'\]; expected one of accdd, auto"),
        case("schedule", {"schedule": ["linear"]}, r"schedule is \['linear'\]; expected one of constant"),
        case("unknown method", {"method": "dcc"}, "unknown method 'dcc'. Did you mean 'dc'"),
        case("unknown init", {"init": "nois"}, "unknown init 'nois'. Did you mean 'noise'"),
        case("unknown metric", {"distance": "cosin"}, "unknown metric 'cosin'. Did you mean 'cosine'"),
        case("unknown engine", {"engine": "torhc"}, "unknown engine 'torhc'. Did you mean 'torch'"),
        case("unknown engine option", {"engine": "torch:memry=4"}, "unknown option of 'torch' 'memry'. Did you mean 'memory'"),
        case("options for reference", {"engine": "reference:memory=4"}, "engine 'reference' takes no options"),
        case("memory as text", {"engine": "torch:memory=all"}, "memory=all in 'torch:memory=all' is not a whole number"),
        case("neither true nor false", {"engine": "torch:compile=maybe"}, "compile=maybe in .* is neither true nor false"),
        case("no memory", {"engine": "torch:memory=0"}, "memory.*0.*expected"),
        case("negative memory", {"engine": "torch:memory=-5"}, "memory.*-5.*expected"),
        case("unknown device", {"device": "gpu"}, "unknown device 'gpu'; expected auto, cpu, cuda or cuda:N"),
        case("unsupported device", {"device": "meta"}, "device 'meta' is not supported"),
        case("a device that is not there", {"device": "cuda:99"}, "device 'cuda:99' is not there"),
        case("negative seed", {"seed": -1}, "seed is -1; expected a whole number of 0 or more"),
        case("half a seed", {"seed": 0.5}, "seed is 0.5; expected a whole number"),
        case("seed None", {"seed": None}, "seed is None; expected a whole number"),
        case("method None", {"method": None}, "method is None; expected one of accdd, auto, curriculum, dance, dc, dd"),
        case("init 3", {"init": 3}, "init is 3; expected one of kmeans, noise, real"),
        case("metric 3", {"distance": 3}, "metric is 3; expected one of"),
        case("engine None", {"engine": None}, "None is no name"),
        case("device None", {"device": None}, "device None"),
        case("one callback", {"callbacks": print}, "callbacks"),
        case("callbacks None", {"callbacks": None}, "callbacks"),
        case("a number as callback", {"callbacks": [3]}, "callback.*(3|int)"),
        case("a number as out", {"out": 3}, "out is 3"),
    ],
)
def test_an_argument_of_condense_that_cannot_be_used(options, match):
    with refusal(UsageError, match):
        condense(**options)


@pytest.mark.parametrize("options", [{"data": (FLOATS * math.nan, LABELS)}, {"ipc": 0}, {"model": "convent"}, {"lr_images": math.nan}])
def test_bad_arguments_leave_no_folder_behind(tmp_path, options):
    with pytest.raises(FastdcError):
        condense(out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_bad_arguments_do_no_harm_to_a_run_that_is_there(tmp_path):
    condense(out=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for options in ({"ipc": 21, "init": "real"}, {"ipc": -1}, {"seed": 7}, {"data": (IMAGES, LABELS[:3])}):
        with pytest.raises(FastdcError):
            condense(out=tmp_path, **options)
        assert {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_out_that_is_a_file_is_left_as_it_is(tmp_path):
    (tmp_path / "file").write_text("precious")
    with refusal(RunError, "file is a file; expected a folder"):
        condense(out=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"


class Explodes(nn.Module):
    """Gives logits that are not finite."""

    def __init__(self):
        super().__init__()
        self.inner = linear()

    def forward(self, images):
        return self.inner(images) * math.nan


def test_a_network_whose_loss_is_not_finite_stops_the_run_with_advice():
    with refusal(RunError, r"not finite at iteration 1, step 1, class '0'\. Lower lr_images"):
        condense(model=lambda *_: Explodes())


@pytest.mark.parametrize(
    ("ipc", "seed", "match"),
    [
        case("0", 0, 0, "ipc is 0; expected a whole number from 1 to 20"),
        case("True", True, 0, "ipc is True; expected a whole number"),
        case("half", 0.5, 0, "ipc is 0.5; expected a whole number"),
        case("too many", 21, 0, "ipc is 21; expected a whole number from 1 to 20, the number of images of class '0'"),
        case("negative seed", 1, -1, "seed is -1"),
    ],
)
def test_an_argument_of_the_random_coreset_that_cannot_be_used(ipc, seed, match):
    with refusal(UsageError, match):
        fastdc.coresets.random((IMAGES, LABELS), ipc, seed=seed)


# GradientMatcher and match_loss


SYNTHETIC, REAL = torch.zeros(2, 1, 1, 8, 8), torch.ones(2, 3, 1, 8, 8)


@pytest.mark.parametrize("engine", ["torch", "reference"])
@pytest.mark.parametrize(
    ("synthetic", "real", "match"),
    [
        case("rank 4", SYNTHETIC[0], REAL, r"synthetic has shape \[1, 1, 8, 8\]; expected \[C, images per class, channels, H, W\]"),
        case("rank 4, real", SYNTHETIC, REAL[:, 0], r"real has shape \[2, 1, 8, 8\]; expected \[C, images per class, channels, H, W\]"),
        case("none", SYNTHETIC[:, :0], REAL, r"synthetic has shape \[2, 0, 1, 8, 8\]"),
        case("no real ones", SYNTHETIC, REAL[:, :0], r"real has shape \[2, 0, 1, 8, 8\]"),
        case("other classes", SYNTHETIC[:1], REAL, "expected the same classes and image size"),
        case("another size", SYNTHETIC, torch.ones(2, 3, 1, 9, 9), "expected the same classes and image size"),
        case("other channels", SYNTHETIC, torch.ones(2, 3, 3, 8, 8), "expected the same classes and image size"),
        case("float64", SYNTHETIC.double(), REAL.double(), r"synthetic is torch\.float64 on cpu, the module torch\.float32"),
        case("real in float64", SYNTHETIC, REAL.double(), r"real is torch\.float64 on cpu, the module torch\.float32"),
        case("bytes", SYNTHETIC.byte(), REAL.byte(), r"synthetic is torch\.uint8 on cpu, the module torch\.float32"),
        case("numpy", SYNTHETIC.numpy(), REAL.numpy(), "synthetic is a (numpy )?ndarray"),
        case("a list", SYNTHETIC.tolist(), REAL, "synthetic is a list"),
        case("a size the module cannot take", torch.zeros(2, 1, 1, 9, 9), torch.ones(2, 3, 1, 9, 9), "Sequential cannot take 1x9x9"),
        case("channels the module cannot take", torch.zeros(2, 1, 3, 8, 8), torch.ones(2, 3, 3, 8, 8), "Sequential cannot take 3x8x8"),
        case(
            "more classes than logits",
            torch.zeros(3, 1, 1, 8, 8),
            torch.ones(3, 3, 1, 8, 8),
            r"maps 1 images to \[1, 2\]; expected logits of shape \[1, 3\]",
        ),
    ],
)
def test_images_that_a_matcher_cannot_use(engine, synthetic, real, match):
    matcher = fastdc.GradientMatcher(linear(), engine=engine)
    with refusal(UsageError, match):
        matcher(synthetic, real)


@pytest.mark.parametrize(
    ("module", "options", "match"),
    [
        case("a name", "convnet", {}, "module is a str; expected an? .*Module"),
        case("None", None, {}, "module is a NoneType; expected an? .*Module"),
        case("a class", nn.Linear, {}, "module is a type; expected an? .*Module"),
        case("a function", lambda *_: linear(), {}, "module is a function; expected an? .*Module"),
        case("no parameters", nn.Flatten(), {}, "Flatten has no parameters; expected a network that can be trained"),
        case("uninitialised", nn.LazyLinear(2), {}, "(?i)lazy|uninitiali[sz]ed"),
        case(
            "two dtypes", nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), {}, "float32 on cpu, torch.float64 on cpu; bring them"
        ),
        case("only biases", OnlyBiases(), {}, "OnlyBiases .*(two|2) dimensions"),
        case("unknown metric", linear(), {"distance": "cosin"}, "unknown metric 'cosin'. Did you mean 'cosine'"),
        case("unknown engine", linear(), {"engine": "torhc"}, "unknown engine 'torhc'. Did you mean 'torch'"),
    ],
)
def test_what_no_matcher_can_be_made_of(module, options, match):
    with refusal(UsageError, match):
        fastdc.GradientMatcher(module, **options)


@pytest.mark.parametrize("module", [case("maps", nn.Conv2d(1, 2, 3)), case("a pair", Pair())])
@pytest.mark.parametrize("engine", ["torch", "reference"])
def test_a_module_that_gives_no_logits_is_named_by_the_matcher(module, engine):
    with refusal(UsageError, f"{type(module).__name__} maps .*; expected logits"):
        fastdc.GradientMatcher(module, engine=engine)(SYNTHETIC, REAL)


def test_a_matcher_leaves_the_mode_of_its_module_as_it_was_when_it_refuses():
    module = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 2)).train()
    matcher = fastdc.GradientMatcher(module)
    with pytest.raises((FastdcError, RuntimeError)):
        matcher(torch.zeros(2, 1, 1, 9, 9), torch.ones(2, 3, 1, 9, 9))
    assert all(part.training for part in module.modules())


def test_a_matcher_leaves_each_part_of_its_module_in_its_mode():
    module = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(64, 2)).train()
    module[0].eval()  # a norm that is frozen while the rest is trained
    matcher = fastdc.GradientMatcher(module, engine="torch")
    assert [part.training for part in module] == [False, True, True, True]
    matcher(SYNTHETIC, REAL)
    assert [part.training for part in module] == [False, True, True, True]
    with pytest.raises(UsageError, match="OnlyBiases"):
        fastdc.GradientMatcher(biases := OnlyBiases())
    assert biases.training


def test_a_matcher_goes_on_where_its_module_is_moved():
    module = build("mlp:width=8", 1, 2, (8, 8))
    matcher = fastdc.GradientMatcher(module)
    matcher(SYNTHETIC, REAL)
    module.bfloat16()  # which the native engine does not take
    loss, gradient = matcher(SYNTHETIC.bfloat16(), REAL.bfloat16())
    assert gradient.dtype == torch.bfloat16
    expected = fastdc.GradientMatcher(module)(SYNTHETIC.bfloat16(), REAL.bfloat16())
    assert torch.equal(loss, expected[0])
    assert torch.equal(gradient, expected[1])


MATRIX, BIAS = torch.ones(2, 3), torch.ones(2)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("synthetic", "real", "match"),
    [
        case("another length", [MATRIX], [MATRIX, BIAS], "expected the same"),
        case("another shape", [MATRIX], [MATRIX.T], r"shapes \[\(2, 3\)\] and \[\(3, 2\)\]; expected the same"),
        case("none", [], [], "expected"),
        case("a tensor for a list", MATRIX, MATRIX, "synthetic_gradients is a Tensor; expected a list of tensors"),
        case("a generator", iter([MATRIX]), [MATRIX], "synthetic_gradients is a list_iterator; expected a list of tensors"),
        case("arrays", [MATRIX], [MATRIX.numpy()], "real_gradients holds a ndarray; expected a list of tensors"),
        case("biases alone", [BIAS], [BIAS], "(two|2) dimensions"),
        case("unused parameter", [MATRIX, None], [MATRIX, None], "None"),
    ],
)
def test_gradients_that_cannot_be_matched(metric, synthetic, real, match):
    with refusal(UsageError, match):
        fastdc.match_loss(synthetic, real, metric=metric)


def test_a_metric_of_match_loss_that_is_not_known():
    with refusal(UsageError, f"unknown metric 'mean'.* Known: {', '.join(sorted(METRICS))}"):
        fastdc.match_loss([MATRIX], [MATRIX], metric="mean")


# evaluate()


def condensed_of(**changes):
    good = {
        "images": torch.from_numpy(IMAGES[:4]).float() / 100 - 1,
        "labels": torch.tensor([0, 1, 0, 1]),
        "mean": [0.5],
        "std": [0.25],
        "class_names": ["ant", "bee"],
    }
    return CondensedDataset(**{**good, **changes})


def evaluate(condensed=None, test=(IMAGES, LABELS), **options):
    condensed = condensed_of() if condensed is None else condensed
    return fastdc.evaluate(condensed, test, **{"model": "mlp:width=4", "networks": 1, "epochs": 1, "progress": False, **options})


@pytest.mark.parametrize(
    ("condensed", "match"),
    [
        case("a path", "condensed.safetensors", "condensed is a str; expected a CondensedDataset: CondensedDataset.load"),
        case("a pair", (IMAGES, LABELS), "condensed is a tuple; expected a CondensedDataset"),
        case("a number", 3, "condensed is a int; expected a CondensedDataset"),
    ],
)
def test_what_no_network_can_be_trained_on(condensed, match):
    with refusal(UsageError, match):
        evaluate(condensed)


@pytest.mark.parametrize(
    ("test", "match"),
    [
        case("more classes", (IMAGES, np.arange(40) % 3), "labels go from 0 to 2; expected 0 to 1 for 2 classes"),
        case("a set of other classes", "digits", "the test set has 10 classes, the condensed set 2"),
        case("another size", (IMAGES[..., :6], LABELS), r"test images are \(1, 8, 6\), condensed ones \(1, 8, 8\)"),
        case("RGB", (np.repeat(IMAGES, 3, 1), LABELS), r"test images are \(3, 8, 8\), condensed ones \(1, 8, 8\)"),
        case("normalised", ((FLOATS - 0.5) / 0.2, LABELS), "before any normalisation"),
        case("fewer labels", (IMAGES, LABELS[:3]), "40 images and 3 labels"),
        case("negative labels", (IMAGES, LABELS - 1), "labels go from -1 to 0"),
        case("fractions", (IMAGES, LABELS / 2), "label 1 is 0.5; expected one whole class number"),
        case("none", (IMAGES[:0], LABELS[:0]), "there are none"),
    ],
)
def test_what_networks_cannot_be_tested_on(test, match):
    with refusal(DataError, match):
        evaluate(test=test)


def test_real_and_condensed_images_are_told_apart_by_evaluate():
    with refusal(UsageError, "condensed is a ImageData; expected a CondensedDataset"):
        evaluate(image_data())
    with refusal(DataError, "before any normalisation"):
        evaluate(test=condensed_of())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        case("no networks", {"networks": 0}, "networks is 0; expected a whole number of 1 or more"),
        case("networks True", {"networks": True}, "networks is True; expected a whole number"),
        case("half a network", {"networks": 0.5}, "networks is 0.5; expected a whole number"),
        case("networks None", {"networks": None}, "networks is None; expected a whole number"),
        case("no epochs", {"epochs": 0}, "epochs is 0; expected a whole number of 1 or more"),
        case("negative epochs", {"epochs": -3}, "epochs is -3; expected a whole number"),
        case("half an epoch", {"epochs": 1.5}, "epochs is 1.5; expected a whole number"),
        case("negative seed", {"seed": -1}, "seed is -1"),
        case("unknown engine", {"engine": "torhc"}, "unknown engine 'torhc'"),
        case("unknown device", {"device": "gpu"}, "unknown device 'gpu'"),
        case("unknown test set", {"test": "digitz"}, "unknown dataset 'digitz'. Did you mean 'digits'"),
        case("no test set", {"test": None}, "data is a NoneType; expected the name of a dataset"),
    ],
)
def test_an_argument_of_evaluate_that_cannot_be_used(options, match):
    with refusal(UsageError, match):
        evaluate(**options)


# CondensedDataset


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        case("bytes", {"images": torch.from_numpy(IMAGES[:4])}, r"images are torch\.uint8 .*expected float"),
        case("rank 3", {"images": FLOATS[:4, 0]}, r"shape \[4, 8, 8\]; expected float \[N, channels, H, W\]"),
        case("two channels", {"images": FLOATS[:4].expand(-1, 2, -1, -1)}, "mean .* do not fit images of 2 channels"),
        case("NaN", {"images": FLOATS[:4] * math.nan}, "some pixels are NaN or infinite"),
        case("infinite", {"images": FLOATS[:4] * math.inf}, "some pixels are NaN or infinite"),
        case("none", {"images": FLOATS[:0], "labels": torch.zeros(0).long()}, "there are no images"),
        case("nothing as images", {"images": None}, "images.* cannot be read|images are"),
        case("fewer labels", {"labels": torch.tensor([0, 1])}, r"labels have shape \[2\] for 4 images"),
        case("negative labels", {"labels": torch.tensor([0, 1, -1, 1])}, "labels go from -1 to 1"),
        case("float labels", {"labels": torch.tensor([0.0, 1, 0, 1])}, r"labels are torch\.float32; expected int64"),
        case("text as labels", {"labels": "abab"}, "labels"),
        case("labels beyond", {"labels": torch.tensor([0, 1, 2, 1])}, "labels go from 0 to 2; expected 0 to 1 for 2 classes"),
        case("two means", {"mean": [0.5, 0.5]}, "do not fit images of 1 channels"),
        case("std of 0", {"std": [0.0]}, "std above 0"),
        case("negative std", {"std": [-1.0]}, "std above 0"),
        case("NaN as std", {"std": [math.nan]}, "std .*nan"),
        case("infinite std", {"std": [math.inf]}, "std .*inf"),
        case("NaN as mean", {"mean": [math.nan]}, "mean .*nan"),
        case("infinite mean", {"mean": [math.inf]}, "mean .*inf"),
        case("a mean without its channel", {"mean": 0.5}, "mean 0.5|mean is 0.5"),
        case("text as mean", {"mean": ["dark"]}, "mean .*dark"),
        case("no names", {"class_names": None}, "class_names|class names"),
    ],
)
def test_a_condensed_dataset_whose_parts_do_not_fit_together(changes, match):
    with refusal(DataError, match):
        condensed_of(**changes)


def test_a_bomb_is_read_no_further_than_its_header_says(tmp_path, monkeypatch):
    """16 MB that unpack to 16 GiB would take minutes and all memory."""
    unpacked = 0

    class Counted(gzip.GzipFile):
        def read(self, size=-1):
            nonlocal unpacked
            content = super().read(size)
            unpacked += len(content)
            return content

    (tmp_path / "bomb.gz").write_bytes(gzip.compress(idx_bytes(IMAGES[:, 0]) + bytes(1 << 26)))
    monkeypatch.setattr(gzip, "open", Counted)
    with refusal(DataError, "holds more than 2560 bytes"):
        read_idx(tmp_path / "bomb.gz")
    assert unpacked < 3000
    assert (tmp_path / "bomb.gz").stat().st_size < 1 << 18


LARGE = 10**9 - 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        case("as many images as no one has", {"ipc": 10**9}, "ipc is 1000000000; expected 999,999,999 at the most"),
        case("one class of them", {"ipc": [1, 10**9]}, "ipc is 1000000000; expected 999,999,999 at the most"),
        case("more images than memory", {"ipc": LARGE}, "a set of 1,999,999,998 images with its gradient takes .* GB, and .* are free"),
        case("more images of each", {"formation": "tiles:factor=20000"}, "images with its gradient takes .* GB|leave nothing"),
        case("a width", {"model": "convnet:width=10000000000"}, "width is 10000000000 in .*; expected 999,999,999 at the most"),
        case("a wide network", {"model": f"mlp:width={LARGE}"}, "model 'mlp:width=999999999' takes .* GB, and .* are free"),
        case("a wider one", {"model": f"convnet:width={LARGE}"}, "model 'convnet:width=999999999' takes .* GB, and .* are free"),
        case("a deep one", {"model": "convnet:depth=999999,pooling=none"}, "depth 999999; expected 1000 at the most"),
        case("digits in a name", {"model": "mlp:width=" + "9" * 5000}, "width=9{80} in 'mlp:width=9*... is not a whole number"),
        case("a long way", {"match": f"dd:unroll={LARGE}"}, "the way of 999,999,999 steps takes .* GB, and .* are free"),
        case("another long way", {"match": f"parameter_matching:unroll={LARGE}"}, "the way of 999,999,999 steps takes"),
        case("frequencies", {"match": f"characteristic:frequencies={LARGE}"}, "the phases at 999,999,999 frequencies takes"),
        case("a seed", {"seed": 10**5000}, "seed is a number of 5001 digits; expected a whole number of 0 or more, below 2.63"),
        case("a seed of 64 bits", {"seed": 1 << 63}, "seed is 9223372036854775808; expected"),
        case("iterations", {"iterations": 10**12}, "iterations is 1000000000000; expected 999,999,999 at the most"),
        case("real images", {"batch_real": 10**9}, "batch_real is 1000000000; expected 999,999,999 at the most"),
        case("a rate", {"lr_images": 10**400}, "lr_images is a number of 401 digits"),
        case("a time", {"budget": "9" * 5000 + "s"}, "budget is '9{79}...; expected a time"),
    ],
)
def test_numbers_that_are_too_large_are_said_before_anything_is_made(options, match):
    with refusal(UsageError, match):
        condense(**{"iterations": 1, **options})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        case("networks", "networks", 10**9),
        case("epochs", "epochs", 10**9),
        case("63 bits", "seed", 1 << 63),
        case("digits", "seed", 10**5000),
    ],
)
def test_too_large_numbers_of_an_evaluation_are_said(option, value):
    with refusal(UsageError, f"{option} is .*; expected"):
        fastdc.evaluate(fastdc.coresets.random("digits", 1), "digits", progress=False, **{option: value})


def test_more_threads_than_a_machine_starts_are_not_asked_of_compiled_code(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5000)
    assert 1 <= fastdc.parallel.threads.compute_threads() <= max(64, os.cpu_count() or 1)
    match = fastdc.match_loss([torch.ones(3, 4)], [torch.ones(3, 4)])
    assert torch.isfinite(match)


def test_a_pipe_or_a_folder_in_place_of_a_file_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe.gz")
    (tmp_path / "folder").mkdir()
    for name in ("pipe.gz", "folder"):
        with refusal(DataError, "no regular file"):
            read_idx(tmp_path / name)
        with refusal(DataError, f"{name} cannot be read|is missing|no subfolder"):
            fastdc.CondensedDataset.load(tmp_path / name)
    os.mkfifo(tmp_path / "folder" / "config.json")
    with refusal(DataError, r"config\.json cannot be read"):
        condense(out=tmp_path / "folder", iterations=1)


def test_an_archive_of_files_that_are_no_arrays_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for key in GOOD_NPZ:
            archive.writestr(key, b"no array")
    with refusal(DataError, "is not an .npz archive"):
        fastdc.load_dataset(f"npz:{tmp_path / 'a.npz'}")


def test_an_archive_that_declares_more_than_it_holds_is_refused(tmp_path):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (1 << 40,)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for key in GOOD_NPZ:
            archive.writestr(f"{key}.npy", buffer.getvalue() + bytes(10))
    with refusal(DataError, "declares 1099511627776 bytes of uint8 where it holds 10"):
        fastdc.load_dataset(f"npz:{tmp_path / 'a.npz'}")


# config.json, and text in other files


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        case("long text", "distance", "x" * 10**5, r"differs in distance \('xxxx.*xxx' there, 'layerwise_cosine' now\)"),
        case("no Unicode", "distance", "\ud800", r"config\.json cannot be read; it is damaged"),
        case("a planned number that is none", "iterations", True, r"differs in .*iterations \(True there"),
        case("a planned number below zero", "iterations", -3, r"differs in .*iterations \(-3 there"),
    ],
)
def test_a_configuration_of_a_run_with_something_else_in_it_is_refused(tmp_path, name, value, match):
    options = {"iterations": None, "budget": "1s"} if name == "iterations" else {}
    condense(out=tmp_path, **options)
    content = json.loads((tmp_path / "config.json").read_text())
    content["config"][name] = value
    (tmp_path / "config.json").write_text(json.dumps(content))
    with refusal((DataError, UsageError), match):
        condense(out=tmp_path, **options)


def test_a_file_of_fastdc_whose_names_are_no_unicode_is_refused(tmp_path):
    condensed_of(class_names=["ant", "\ud800"]).save(tmp_path / "c.safetensors")
    with refusal(DataError, r"c\.safetensors is not a whole condensed dataset file.*surrogates not allowed"):
        CondensedDataset.load(tmp_path / "c.safetensors")


def test_classes_without_images_have_no_row_in_the_picture():
    few = condensed_of(class_names=[str(number) for number in range(100_000)])
    assert few.grid().size == condensed_of().grid().size
