"""Files and folders that are missing, damaged or something else: each gets a sentence in one line that names it."""

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

import numpy as np
import pytest
from bad_input import IMAGES, LABELS, case, condense, condensed_of, refusal
from helpers import IDX_FILES, idx_bytes
from PIL import Image, features

import fastdc
from fastdc.condensed import CondensedDataset
from fastdc.data.sources import named
from fastdc.data.sources.idx import read_idx
from fastdc.errors import DataError, MissingFileError, UsageError


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
