from __future__ import annotations

import errno
import io
import json
import math
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from tolerances import PIXELS
from torch.utils.data import DataLoader

import fastdc
from fastdc.condensed import CondensedDataset
from fastdc.errors import DataError, MissingFileError, RunError, UsageError
from fastdc.runs import files as storage

PROVENANCE = {"dataset": "digits", "seed": 3, "config": {"ipc": 2, "lr": 0.1, "name": None, "on": True}, "list": [1, 2.5, "ä"]}


def condensed_of(counts, channels=1, size=(8, 8), provenance=None):
    """Images in 0..1 drawn at random, normalised; `counts` of each class."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(len(labels), channels, *size, generator=generator) - 0.4) / 0.25
    names = [f"class {c}" for c in range(len(counts))]
    return CondensedDataset(images, labels, mean=[0.4] * channels, std=[0.25] * channels, class_names=names, provenance=provenance)


@pytest.fixture
def condensed():
    return condensed_of([2, 2, 2], provenance=PROVENANCE)


@pytest.fixture
def file(condensed, tmp_path):
    condensed.save(tmp_path / "c.safetensors")
    return tmp_path / "c.safetensors"


# in memory


def test_images_are_sorted_by_class_and_keep_their_order_within_it():
    images = torch.arange(6.0).view(6, 1, 1, 1)
    condensed = CondensedDataset(images, torch.tensor([2, 0, 1, 0, 2, 2]), mean=[0], std=[1], class_names="abc")
    assert condensed.labels.tolist() == [0, 0, 1, 2, 2, 2]
    assert condensed.images.flatten().tolist() == [1, 3, 2, 0, 4, 5]


def test_a_set_says_its_size(condensed):
    assert (len(condensed), condensed.num_classes, condensed.ipc, condensed.class_names[1]) == (6, 3, 2, "class 1")
    assert repr(condensed) == "CondensedDataset(6 images 1x8x8 of 3 classes, normalised by mean (0.4), std (0.25))"


def test_images_are_kept_as_float32_away_from_any_graph():
    images = torch.zeros(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    condensed = CondensedDataset(images, torch.tensor([0, 1]), mean=[0], std=[1], class_names="ab")
    assert (condensed.images.dtype, condensed.images.requires_grad, condensed.labels.dtype) == (torch.float32, False, torch.int64)


def test_pixels_are_what_was_normalised():
    train, _ = fastdc.load_dataset("digits")
    condensed = fastdc.coresets.random(train, ipc=3)
    found = (condensed.to_pixels() * 255).round().to(torch.uint8)
    expected = {image.numpy().tobytes() for image in train.images}
    assert all(image.numpy().tobytes() in expected for image in found)


def test_pixels_of_each_channel_use_its_own_mean_and_std():
    images = 3 * torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    mean, std = [0.2, 0.5, 0.7], [0.1, 0.2, 0.3]
    condensed = CondensedDataset(images, torch.tensor([0, 0, 1, 1]), mean=mean, std=std, class_names="ab")
    expected = images.numpy() * np.reshape(std, (3, 1, 1)) + np.reshape(mean, (3, 1, 1))
    assert expected.min() < 0
    assert expected.max() > 1
    np.testing.assert_allclose(condensed.to_pixels(), expected.clip(0, 1), rtol=0, atol=PIXELS)


@pytest.mark.parametrize(("mean", "std", "expected"), [([0], [1], False), ([0.0], [1.0], False), ([0], [0.5], True), ([0.1], [1], True)])
def test_a_set_says_whether_it_is_normalised(mean, std, expected):
    condensed = CondensedDataset(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), mean=mean, std=std, class_names="ab")
    assert condensed.normalised is expected
    assert ("pixels in 0..1" in repr(condensed)) is not expected


def test_a_torch_data_loader_reads_it(condensed):
    batches = list(DataLoader(condensed, batch_size=4))
    assert [tuple(images.shape) for images, _ in batches] == [(4, 1, 8, 8), (2, 1, 8, 8)]
    assert torch.equal(torch.cat([images for images, _ in batches]), condensed.images)
    labels = torch.cat([labels for _, labels in batches])
    assert labels.dtype == torch.int64
    assert torch.equal(labels, condensed.labels)


def test_an_item_is_an_image_and_its_label(condensed):
    image, label = condensed[3]
    assert torch.equal(image, condensed.images[3])
    assert (type(label), label) == (int, 1)


# the picture


@pytest.mark.parametrize(
    ("counts", "channels", "size", "expected"),
    [
        pytest.param([3] * 4, 1, (8, 8), (3 * 66 + 2, 4 * 66 + 2), id="a row per class"),
        pytest.param([1] * 10, 1, (8, 8), (10 * 66 + 2, 66 + 2), id="one image per class: one row"),
        pytest.param([1] * 25, 1, (8, 8), (10 * 66 + 2, 3 * 66 + 2), id="one image per class: rows of ten"),
        pytest.param([1] * 3, 1, (8, 8), (3 * 66 + 2, 66 + 2), id="fewer than ten classes"),
        pytest.param([2] * 2, 3, (28, 28), (2 * 58 + 2, 2 * 58 + 2), id="doubled"),
        pytest.param([2] * 2, 3, (40, 40), (2 * 42 + 2, 2 * 42 + 2), id="not enlarged"),
        pytest.param([2] * 2, 3, (100, 100), (2 * 102 + 2, 2 * 102 + 2), id="never made smaller"),
        pytest.param([2] * 2, 1, (8, 16), (2 * 66 + 2, 2 * 34 + 2), id="not square"),
    ],
)
def test_the_picture_has_its_images_side_by_side(counts, channels, size, expected):
    picture = condensed_of(counts, channels, size).grid()
    assert (picture.size, picture.mode) == (expected, "RGB")


def cell(picture, row, column, side=64):
    top, left = 2 + row * (side + 2), 2 + column * (side + 2)
    return np.asarray(picture)[top : top + side, left : left + side]


def test_the_picture_shows_class_by_class_from_top_to_bottom(condensed):
    picture = condensed.grid()
    pixels = (condensed.to_pixels() * 255).round().to(torch.uint8).numpy()
    for i in range(6):
        found = cell(picture, i // 2, i % 2)
        np.testing.assert_array_equal(found[::8, ::8, 0], pixels[i, 0])
        np.testing.assert_array_equal(found, np.kron(pixels[i, 0], np.ones((8, 8), np.uint8))[..., None].repeat(3, -1))


def test_a_class_with_fewer_images_leaves_its_row_unfinished():
    condensed = condensed_of([3, 1, 2])
    picture = condensed.grid()
    pixels = (condensed.to_pixels() * 255).round().to(torch.uint8).numpy()
    assert picture.size == (3 * 66 + 2, 3 * 66 + 2)
    np.testing.assert_array_equal(cell(picture, 1, 0)[::8, ::8, 0], pixels[3, 0])
    np.testing.assert_array_equal(cell(picture, 2, 0)[::8, ::8, 0], pixels[4, 0])


def test_the_picture_is_written_as_it_is(condensed, tmp_path):
    condensed.save_grid(tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(condensed.grid()))


def test_a_name_that_says_another_kind_of_picture_is_refused(condensed, tmp_path):
    with pytest.raises(UsageError, match=r"picture\.jpg ends in \.jpg; the picture is a PNG file"):
        condensed.save_grid(tmp_path / "picture.jpg")
    assert not list(tmp_path.iterdir())
    for name in ("picture.PNG", "rate0.01"):
        condensed.save_grid(tmp_path / name)


# a file and back


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_saved_is_loaded_with_the_same_bits(tmp_path, channels):
    condensed = condensed_of([2, 3, 1], channels, (5, 7), PROVENANCE)
    condensed.save(tmp_path / "c.safetensors")
    found = CondensedDataset.load(tmp_path / "c.safetensors")
    assert found.images.numpy().tobytes() == condensed.images.numpy().tobytes()
    assert found.images.shape == condensed.images.shape
    assert torch.equal(found.labels, condensed.labels)
    assert (found.mean, found.std, found.class_names) == (condensed.mean, condensed.std, condensed.class_names)


def test_provenance_comes_back_as_it_was(file):
    assert CondensedDataset.load(file).provenance == PROVENANCE


def test_numbers_that_have_no_short_form_come_back_to_the_last_bit(tmp_path):
    images = torch.tensor([1 / 3, -0.0, 1e-45, math.pi]).view(4, 1, 1, 1)
    condensed = CondensedDataset(images, torch.tensor([0, 0, 1, 1]), mean=[1 / 3], std=[math.pi / 10], class_names="ab")
    condensed.save(tmp_path / "c")
    found = CondensedDataset.load(tmp_path / "c")
    assert found.images.numpy().tobytes() == images.numpy().tobytes()
    assert (found.mean, found.std) == ((1 / 3,), (math.pi / 10,))


def test_equal_sets_make_equal_files(file, condensed, tmp_path):
    condensed.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == file.read_bytes()


def test_the_file_is_safetensors_with_plain_tensors(file, condensed):
    from safetensors.torch import load_file

    tensors = load_file(file)
    assert torch.equal(tensors["images"], condensed.images)
    assert torch.equal(tensors["labels"], condensed.labels)


def test_a_path_may_be_a_string(condensed, tmp_path):
    condensed.save(str(tmp_path / "c"))
    assert len(CondensedDataset.load(str(tmp_path / "c"))) == 6


# damaged files


def test_a_file_cut_short_at_any_length_is_refused(file):
    for length in reversed(range(file.stat().st_size)):
        os.truncate(file, length)
        with pytest.raises(DataError, match=r"c\.safetensors is not a whole condensed dataset file: .*cut short"):
            CondensedDataset.load(file)


@pytest.mark.parametrize("mask", [0x01, 0x02, 0x10, 0x20, 0x80, 0xFF], ids=hex)
def test_a_file_with_any_byte_changed_is_refused(file, mask):
    raw = file.read_bytes()
    accepted = []
    with open(file, "r+b", buffering=0) as handle:
        for position in range(len(raw)):
            os.pwrite(handle.fileno(), bytes([raw[position] ^ mask]), position)
            try:
                CondensedDataset.load(file)
                accepted.append((position, raw[max(0, position - 10) : position + 10]))
            except DataError:
                pass
            os.pwrite(handle.fileno(), raw[position : position + 1], position)
    assert len(CondensedDataset.load(file)) == 6
    assert accepted == []


@pytest.mark.parametrize("extra", [b"\0", b"more"])
def test_a_file_with_something_behind_it_is_refused(file, extra):
    file.write_bytes(file.read_bytes() + extra)
    with pytest.raises(DataError, match="altered"):
        CondensedDataset.load(file)


def with_metadata(raw, **changes):
    """The bytes of a safetensors file with other metadata; None takes a key away."""
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    entry = {**json.loads(header["__metadata__"]["fastdc"]), **changes}
    header["__metadata__"]["fastdc"] = json.dumps({k: v for k, v in entry.items() if v is not None})
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + raw[8 + length :]


def test_a_file_of_another_format_version_says_which_and_what_can_be_read(file):
    file.write_bytes(with_metadata(file.read_bytes(), format=7))
    with pytest.raises(DataError, match=r"format version 7; .* reads 1: use"):
        CondensedDataset.load(file)


def test_metadata_written_anew_without_a_change_is_read(file):
    file.write_bytes(with_metadata(file.read_bytes()))
    assert len(CondensedDataset.load(file)) == 6


@pytest.mark.parametrize("key", ["format", "kind", "digest", "content"])
def test_a_file_that_lacks_a_part_of_its_header_is_refused(file, key):
    file.write_bytes(with_metadata(file.read_bytes(), **{key: None}))
    with pytest.raises(DataError, match="altered"):
        CondensedDataset.load(file)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b'"shape":[6,1,8,8]', b'"shape":[6,1,4,16]', id="shape"),
        pytest.param(b'"dtype":"F32"', b'"dtype":"I32"', id="dtype"),
        pytest.param(b'"labels"', b'"others"', id="name"),
    ],
)
def test_tensors_that_the_header_describes_otherwise_are_refused(file, old, new):
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = raw[8 : 8 + length]
    assert header.count(old) == 1
    header = header.replace(old, new)
    file.write_bytes(struct.pack("<Q", len(header)) + header + raw[8 + length :])
    with pytest.raises(DataError, match="altered"):
        CondensedDataset.load(file)


@pytest.mark.parametrize(
    "header", [b"[1, 2]  ", b"null    ", b'"text"  ', b"12      ", b"{}      ", b'{"__metadata__": 3} ', b"\xff\xfe{}    "]
)
def test_a_file_whose_header_is_something_else_is_refused(tmp_path, header):
    (tmp_path / "other").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(DataError, match="not a whole condensed dataset file"):
        CondensedDataset.load(tmp_path / "other")


def test_a_safetensors_file_of_another_program_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"images": torch.zeros(2, 1, 4, 4), "labels": torch.tensor([0, 1])}, str(tmp_path / "other"), {"made": "elsewhere"})
    with pytest.raises(DataError, match="another kind"):
        CondensedDataset.load(tmp_path / "other")


def test_a_checkpoint_is_no_condensed_dataset(tmp_path):
    from fastdc.runs.files import save_tensors

    save_tensors(tmp_path / "checkpoint", "checkpoint", {"images": torch.zeros(2, 1, 4, 4)}, {})
    with pytest.raises(DataError, match="another kind"):
        CondensedDataset.load(tmp_path / "checkpoint")


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(MissingFileError, match=r"nowhere\.safetensors is missing"):
        CondensedDataset.load(tmp_path / "nowhere.safetensors")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(DataError, match="has no subfolder"):
        CondensedDataset.load(tmp_path)


# writing that fails


WRITERS = {
    "save": lambda condensed, path: condensed.save(path),
    "save_grid": lambda condensed, path: condensed.save_grid(path),
    "to_pt": lambda condensed, path: condensed.to_pt(path),
}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("writer", WRITERS)
def test_writing_that_fails_says_why_and_leaves_the_older_file_whole(condensed, tmp_path, monkeypatch, writer, call, number):
    path = tmp_path / "result"
    WRITERS[writer](condensed_of([1, 1]), path)
    before = path.read_bytes()

    def fail(*_args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    advice = "free some space" if number == errno.ENOSPC else "name a folder that can be written"
    with pytest.raises(RunError, match=rf"result cannot be written \({os.strerror(number)}\); {advice}"):
        WRITERS[writer](condensed, path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["result"]


@pytest.mark.parametrize("writer", WRITERS)
def test_writing_that_fails_leaves_nothing_where_nothing_was(condensed, tmp_path, monkeypatch, writer):
    def fail(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match="No space left"):
        WRITERS[writer](condensed, tmp_path / "result")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("writer", WRITERS)
def test_a_folder_that_is_not_there_is_an_error_that_names_it(condensed, tmp_path, writer):
    with pytest.raises(RunError, match=r"missing/result cannot be written \(No such file or directory\)"):
        WRITERS[writer](condensed, tmp_path / "missing" / "result")


@pytest.mark.parametrize("writer", WRITERS)
def test_a_folder_is_not_written_over(condensed, tmp_path, writer):
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunError, match="folder is a folder; expected a regular file"):
        WRITERS[writer](condensed, tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]


def test_exporting_to_a_folder_on_a_full_disk_is_a_run_error(condensed, tmp_path, monkeypatch):
    def fail(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match="free some space"):
        condensed.to_folder(tmp_path)


def test_exporting_below_a_file_is_a_run_error(condensed, file):
    with pytest.raises(RunError, match="cannot be written"):
        condensed.to_folder(file)


@pytest.mark.parametrize("value", [torch.ones(2), {1, 2}, object()], ids=["tensor", "set", "object"])
def test_provenance_that_is_not_plain_is_refused_with_a_sentence_and_nothing_is_harmed(file, value):
    before = file.read_bytes()
    with pytest.raises((DataError, RunError), match="provenance"):
        condensed_of([1, 1], provenance={"metrics": value}).save(file)
    assert file.read_bytes() == before


# a folder of PNGs


def test_a_folder_with_other_pictures_is_refused_since_they_would_be_read_with_these(tmp_path):
    condensed_of([3, 2]).to_folder(tmp_path)
    condensed_of([3, 2]).to_folder(tmp_path)  # the same files
    before = {file: file.read_bytes() for file in tmp_path.glob("*/*")}
    with pytest.raises(UsageError, match=r"holds other pictures, such as 000_class_0/0002.png; choose a new folder, or empty it"):
        condensed_of([2, 2]).to_folder(tmp_path)
    assert {file: file.read_bytes() for file in tmp_path.glob("*/*")} == before


@pytest.mark.parametrize("channels", [1, 3])
def test_exported_pngs_hold_the_pixels_and_are_read_as_a_dataset(tmp_path, channels):
    condensed = condensed_of([2, 3, 1], channels, (5, 7))
    for split in ("train", "test"):
        condensed.to_folder(tmp_path / split)
    found, _ = fastdc.load_dataset(f"folder:{tmp_path}")
    assert torch.equal(found.images, (condensed.to_pixels() * 255).round().to(torch.uint8))
    assert torch.equal(found.labels, condensed.labels)
    assert sorted(p.name for p in (tmp_path / "train" / "001_class_1").iterdir()) == ["0000.png", "0001.png", "0002.png"]


def test_classes_keep_their_names_through_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    count = 1002
    condensed = CondensedDataset(
        torch.zeros(count, 1, 2, 2), torch.arange(count), mean=[0], std=[1], class_names=[f"c{n}" for n in range(count)]
    )
    condensed.to_folder("~/pictures")
    assert CondensedDataset.from_folder("~/pictures").class_names == condensed.class_names
    for name in ("101_dogs", "cats"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        shutil.copy(tmp_path / "pictures" / "000_c0" / "0000.png", tmp_path / "mine" / name)
    assert CondensedDataset.from_folder(tmp_path / "mine").class_names == ("101_dogs", "cats")


def test_files_in_the_home_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    condensed = condensed_of([1, 1])
    condensed.save("~/a.safetensors")
    condensed.save_grid("~/a.png")
    condensed.to_pt("~/a.pt")
    assert torch.equal(CondensedDataset.load("~/a.safetensors").images, condensed.images)
    assert len(CondensedDataset.from_pt("~/a.pt", mean=[0], std=[1])) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.pt", "a.safetensors"]


def test_class_names_cannot_lead_out_of_the_folder(tmp_path):
    names = ["../../x", "a/b"]
    condensed = CondensedDataset(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), mean=[0], std=[1], class_names=names)
    condensed.to_folder(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]
    assert sum(len(files) for _, _, files in os.walk(tmp_path / "out")) == 2


# the .pt files of the paper's authors


def authors_file(experiments=2, accuracies=True):
    """What their main.py saves after a run: one pair per experiment, and the accuracies as numpy scalars."""
    data = []
    for experiment in range(experiments):
        generator = torch.Generator().manual_seed(experiment)
        data.append([torch.randn(20, 1, 8, 8, generator=generator), torch.repeat_interleave(torch.arange(10), 2)])
    accs = {"ConvNet": [np.float64(0.25), np.float64(0.5)], "MLP": []} if accuracies else {}
    return {"data": data, "accs_all_exps": accs}


def read_pt(path, **options):
    return CondensedDataset.from_pt(path, **{"mean": [0.5], "std": [0.25], **options})


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("accuracies", [True, False], ids=["with accuracies", "without"])
def test_the_authors_file_is_imported(tmp_path, zipped, accuracies):
    content = authors_file(accuracies=accuracies)
    torch.save(content, tmp_path / "res.pt", _use_new_zipfile_serialization=zipped)
    condensed = read_pt(tmp_path / "res.pt")
    assert torch.equal(condensed.images, content["data"][0][0])
    assert torch.equal(condensed.labels, content["data"][0][1])
    assert (condensed.mean, condensed.std, condensed.class_names) == ((0.5,), (0.25,), tuple("0123456789"))


def test_the_accuracies_of_an_authors_file_become_provenance_that_can_be_saved(tmp_path):
    torch.save(authors_file(), tmp_path / "res.pt")
    condensed = read_pt(tmp_path / "res.pt")
    assert condensed.provenance["accs_all_exps"] == {"ConvNet": [0.25, 0.5], "MLP": []}
    condensed.save(tmp_path / "c")
    assert CondensedDataset.load(tmp_path / "c").provenance == condensed.provenance


@pytest.mark.parametrize("module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_a_file_written_with_another_numpy_is_imported(tmp_path, module):
    torch.save(authors_file(), tmp_path / "res.pt")
    with zipfile.ZipFile(tmp_path / "res.pt") as here, zipfile.ZipFile(tmp_path / "other.pt", "w") as other:
        for name in here.namelist():
            content = here.read(name)
            if name.endswith("data.pkl"):
                content, replaced = re.subn(rb"numpy\._?core\.multiarray", module, content)  # from numpy 2 on with the underscore
                assert replaced
            other.writestr(name, content)
    assert read_pt(tmp_path / "other.pt").provenance["accs_all_exps"]["ConvNet"] == [0.25, 0.5]


@pytest.mark.parametrize("experiment", [0, 1])
def test_any_experiment_of_an_authors_file_is_imported(tmp_path, experiment):
    content = authors_file()
    torch.save(content, tmp_path / "res.pt")
    assert torch.equal(read_pt(tmp_path / "res.pt", experiment=experiment).images, content["data"][experiment][0])


@pytest.mark.parametrize("experiment", [2, -1])
def test_an_experiment_that_is_not_in_the_file_is_an_error(tmp_path, experiment):
    torch.save(authors_file(), tmp_path / "res.pt")
    with pytest.raises(DataError, match=rf"experiments 0 to 1; got {experiment}"):
        read_pt(tmp_path / "res.pt", experiment=experiment)


def test_an_exported_file_has_the_form_of_the_authors_and_comes_back(condensed, tmp_path):
    condensed.to_pt(tmp_path / "res.pt")
    content = torch.load(tmp_path / "res.pt", weights_only=True)
    assert set(content) == {"data", "accs_all_exps"}
    [[images, labels]] = content["data"]
    assert torch.equal(images, condensed.images)
    assert torch.equal(labels, condensed.labels)
    found = read_pt(tmp_path / "res.pt", mean=condensed.mean, std=condensed.std, class_names=condensed.class_names)
    assert found.images.numpy().tobytes() == condensed.images.numpy().tobytes()
    assert found.class_names == condensed.class_names


class Malice:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def raw_pickle(content):
    return pickle.dumps(content, protocol=2)


def torch_file(content, zipped):
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


EVIL = pytest.mark.parametrize(
    "write",
    [raw_pickle, lambda content: torch_file(content, True), lambda content: torch_file(content, False)],
    ids=["plain pickle", "zip", "legacy"],
)


@EVIL
@pytest.mark.parametrize("place", ["data", "accs_all_exps", "more"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_pt_file_is_not_run(tmp_path, write, place):
    content = write({**authors_file(1), place: [Malice(tmp_path / "trace")]})
    (tmp_path / "evil.pt").write_bytes(content)
    with pytest.raises(DataError, match=r"evil\.pt is not a file of condensed images"):
        read_pt(tmp_path / "evil.pt")
    assert not (tmp_path / "trace").exists()
    pickle.loads(raw_pickle(Malice(tmp_path / "trace")))
    assert (tmp_path / "trace").exists()  # the trap works where code is run


@EVIL
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_one_is_advised_to_allow_code_in_a_pt_file(tmp_path, write):
    (tmp_path / "evil.pt").write_bytes(write({"data": Malice(tmp_path / "trace")}))
    with pytest.raises(DataError) as caught:
        read_pt(tmp_path / "evil.pt")
    assert "weights_only" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


IMAGES, LABELS = torch.zeros(4, 1, 8, 8), torch.tensor([0, 0, 1, 1])


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
@pytest.mark.parametrize(
    ("content", "match"),
    [
        pytest.param({"data": []}, "expected {'data'", id="no experiment"),
        pytest.param({"images": IMAGES}, "expected {'data'", id="other keys"),
        pytest.param([IMAGES, IMAGES], "labels", id="images for labels"),
        pytest.param([IMAGES, LABELS, LABELS], "expected {'data'", id="a list of three"),
        pytest.param("images", "expected {'data'", id="text alone"),
        pytest.param({"data": [[IMAGES]]}, "expected {'data'", id="no labels"),
        pytest.param({"data": [[IMAGES, None]]}, "expected {'data'|labels", id="labels are None"),
        pytest.param({"data": [["a", "b"]]}, "expected {'data'|images", id="text"),
        pytest.param({"data": [[IMAGES, LABELS[:0]]]}, "labels", id="no label at all"),
        pytest.param({"data": [[IMAGES, LABELS[:2]]]}, "2.* for 4 images", id="fewer labels"),
        pytest.param({"data": [[IMAGES, LABELS - 1]]}, "labels go from -1", id="negative labels"),
        pytest.param({"data": [[IMAGES, LABELS + 0.5]]}, "other.pt: label 0 is 0.5", id="labels between two classes"),
        pytest.param({"data": [[IMAGES.long(), LABELS]]}, "images are torch.int64", id="whole numbers"),
        pytest.param({"data": [[IMAGES * math.nan, LABELS]]}, "NaN", id="NaN"),
    ],
)
def test_a_pt_file_of_another_make_is_refused_with_a_sentence(tmp_path, content, match):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(DataError, match=match):
        read_pt(tmp_path / "other.pt")


def test_a_pt_file_cut_short_is_refused_with_one_line(tmp_path):
    raw = torch_file(authors_file(), True)
    for length in [*range(0, 64, 7), *range(64, len(raw), 997), len(raw) - 1]:
        (tmp_path / "cut.pt").write_bytes(raw[:length])
        with pytest.raises(DataError, match=r"cut\.pt is not a file of condensed images") as caught:
            read_pt(tmp_path / "cut.pt")
        assert "\n" not in str(caught.value)


def test_a_missing_pt_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(MissingFileError, match=r"nowhere\.pt is missing"):
        read_pt(tmp_path / "nowhere.pt")


def test_names_and_statistics_that_do_not_fit_a_pt_file_are_an_error(tmp_path):
    torch.save(authors_file(), tmp_path / "res.pt")
    with pytest.raises(DataError, match=r"do not fit images of 1 channels"):
        read_pt(tmp_path / "res.pt", mean=[0.5] * 3, std=[0.5] * 3)
    with pytest.raises(DataError, match=r"labels go from 0 to 9; expected 0 to 1"):
        read_pt(tmp_path / "res.pt", class_names=["a", "b"])


WRITING = """
import sys, torch, fastdc
number, path = int(sys.argv[1]), sys.argv[2]
content = {"mean": [0.0], "std": [1.0], "class_names": ["a", "b"]}
condensed = fastdc.CondensedDataset(torch.full((2, 1, 8, 8), float(number)), torch.tensor([0, 1]), **content)
for _ in range(50):
    condensed.save(path)
"""


def test_several_writers_of_one_path_all_succeed_and_no_reader_sees_a_broken_file(tmp_path):
    path = tmp_path / "one.safetensors"
    command = [sys.executable, "-W", "ignore", "-c", WRITING]
    writers = [subprocess.Popen([*command, str(number), str(path)]) for number in range(3)]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            images = CondensedDataset.load(path).images
            assert (images == images[0, 0, 0, 0]).all()
            seen.add(images[0, 0, 0, 0].item())
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert seen <= {0.0, 1.0, 2.0}
    assert os.listdir(tmp_path) == ["one.safetensors"]


@pytest.mark.parametrize("writer", ["save", "save_grid", "to_pt"])
def test_what_is_no_regular_file_is_neither_followed_nor_replaced(condensed, tmp_path, writer):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "link").symlink_to(precious)
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    for name, kind in (("link", "a link"), ("dangling", "a link"), ("pipe", "a device, a pipe or a socket")):
        with pytest.raises(RunError, match=f"{name} is {kind}; expected a regular file"):
            getattr(condensed, writer)(tmp_path / name)
    assert precious.read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["dangling", "link", "pipe", "precious"]


@pytest.mark.parametrize("path", ["a\0b", "x" * 300, "", "."])
def test_what_is_no_path_of_a_file_is_refused(condensed, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=r"cannot be written|expected a regular file"):
        condensed.save(path)


@pytest.mark.parametrize(
    "change",
    [
        {"content": {"mean": [0.5], "std": [0.25], "class_names": 3}},
        {"content": {"mean": [0.5], "std": [0.25]}},
        {"content": {"mean": [0.5], "std": [0.25], "class_names": ["a", "b"], "surplus": 1}},
        {"content": {"mean": {"a": 1}, "std": [0.25], "class_names": ["a", "b"]}},
        {"content": {"mean": [0.5], "std": [0.25], "class_names": ["a", "b"], "provenance": 3}},
        {"content": {"mean": [0.5], "std": [0.25], "class_names": ["a", "b"], "formation": "frequency:images=10**9"}},
        {"content": [1, 2]},
        {"tensors": {"images": torch.zeros(2, 1, 8, 8)}},
        {"tensors": {"images": torch.zeros(2, 1, 8, 8, dtype=torch.int8), "labels": torch.tensor([0, 1])}},
        {"tensors": {"images": torch.zeros(2), "labels": torch.tensor([0, 1])}},
        {"tensors": {"images": torch.zeros(2, 1, 8, 8), "labels": torch.tensor([0, 10**12])}},
        {"tensors": {"images": torch.full((2, 1, 8, 8), math.nan), "labels": torch.tensor([0, 1])}},
    ],
)
def test_a_whole_file_with_another_content_is_a_data_error(tmp_path, change):
    good = {
        "tensors": {"images": torch.zeros(2, 1, 8, 8), "labels": torch.tensor([0, 1])},
        "content": {"mean": [0.5], "std": [0.25], "class_names": ["a", "b"]},
    }
    parts = {**good, **change}
    storage.save_tensors(tmp_path / "c", "condensed dataset", parts["tensors"], parts["content"])
    with pytest.raises(DataError):
        CondensedDataset.load(tmp_path / "c")
    storage.save_tensors(tmp_path / "c", "condensed dataset", good["tensors"], good["content"])
    assert len(CondensedDataset.load(tmp_path / "c")) == 2
