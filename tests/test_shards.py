"""`shards:PATH`: tar files of pictures and their classes, as WebDataset has them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fastdc
from fastdc.errors import DataError, MissingFileError

PIXELS = np.random.default_rng(0).integers(256, size=(12, 5, 7), dtype=np.uint8)


def write_shard(path: Path, files: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            shard.addfile(info, io.BytesIO(content))


def samples(numbers: range, labels: list[str], suffix: str = "cls") -> dict[str, bytes]:
    """Pictures of these numbers, each with its class, which follows it or comes before it."""
    files: dict[str, bytes] = {}
    for number in numbers:
        buffer = io.BytesIO()
        Image.fromarray(PIXELS[number]).save(buffer, "png")
        pair = [(f"a/{number:04d}.png", buffer.getvalue()), (f"a/{number:04d}.{suffix}", labels[number % len(labels)].encode())]
        files.update(pair if number % 2 else reversed(pair))
    return files


@pytest.mark.parametrize(
    ("train", "test"), [("train-{}.tar", "val.tar"), ("train/{}.tar", "test/0.tar"), ("training_{}.tar", "validation-00.tar")]
)
def test_pictures_are_read_in_the_order_of_their_shards(tmp_path: Path, train: str, test: str) -> None:
    for number in (10, 2):
        start = 5 if number == 10 else 0
        write_shard(tmp_path / train.format(number), samples(range(start, start + 5), ["0", "1", "2"]))
    write_shard(tmp_path / test, samples(range(10, 12), ["0", "1", "2"]))
    data, tested = fastdc.load_dataset(f"shards:{tmp_path}")
    np.testing.assert_array_equal(data.images[:, 0], PIXELS[:10])
    np.testing.assert_array_equal(tested.images[:, 0], PIXELS[10:])
    assert data.labels.tolist() == [number % 3 for number in range(10)]
    assert tested.labels.tolist() == [1, 2]
    assert (data.class_names, data.name, tested.mean) == (("0", "1", "2"), f"shards:{tmp_path}", data.mean)


@pytest.mark.parametrize("suffix", ["cls", "txt"])
def test_classes_may_be_names_and_one_in_five_is_to_test_on(tmp_path: Path, suffix: str) -> None:
    write_shard(tmp_path / "all.tar", samples(range(10), ["bee", "ant\n"], suffix) | {"README.md": b"not a sample", "x/": b""})
    with pytest.warns(UserWarning, match="split into 8 images to train on and 2 to test on"):
        train, test = fastdc.load_dataset(f"shards:{tmp_path}", image_size=4)
    assert (train.class_names, train.image_size, len(train), len(test)) == (("ant", "bee"), (4, 4), 8, 2)


@pytest.mark.parametrize("first", ["txt", "cls"])
def test_a_caption_beside_the_class_is_no_class(tmp_path: Path, first: str) -> None:
    pictures = {name: content for name, content in samples(range(6), ["0"]).items() if name.endswith(".png")}
    files: dict[str, bytes] = {}
    for number, (name, content) in enumerate(pictures.items()):
        beside = {"txt": b"a picture of noise", "cls": str(number % 2).encode()}
        files |= {name: content, **{name.replace("png", suffix): beside[suffix] for suffix in sorted(beside, reverse=first == "txt")}}
    write_shard(tmp_path / "train.tar", files)
    write_shard(tmp_path / "test.tar", files)
    assert fastdc.load_dataset(f"shards:{tmp_path}")[0].class_names == ("0", "1")


def refused(path: Path, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        fastdc.load_dataset(f"shards:{path}")


def test_what_cannot_be_read_is_refused_in_a_sentence(tmp_path: Path) -> None:
    refused(tmp_path / "none", MissingFileError, "none is missing; expected a folder with tar files")
    refused(tmp_path, MissingFileError, r"has no tar file; expected train\*.tar and test\*.tar")
    write_shard(tmp_path / "test.tar", samples(range(2), ["0", "1"]))
    refused(tmp_path, MissingFileError, r"has test.tar to test on, and no train\*.tar")
    write_shard(tmp_path / "train.tar", samples(range(2), ["0", "2"]))
    refused(tmp_path, DataError, "class 1 has no image")
    whole = samples(range(4), ["0", "1"])
    write_shard(tmp_path / "train.tar", {name: content for name, content in whole.items() if name != "a/0003.cls"})
    refused(tmp_path, DataError, r"a/0003.png in .*train.tar has no class; expected a file beside it that ends in .cls")
    write_shard(tmp_path / "train.tar", whole | {"a/0001.png": b"no picture"})
    refused(tmp_path, DataError, r"a/0001.png in .*train.tar cannot be read as an image")
    write_shard(tmp_path / "train.tar", whole)
    write_shard(tmp_path / "test.tar", samples(range(3), ["0", "1", "2"]))
    refused(tmp_path, DataError, "class 2 is one of test images alone; expected 0 to 1")
    (tmp_path / "train.tar").write_bytes((tmp_path / "train.tar").read_bytes()[:700])
    refused(tmp_path, DataError, "train.tar is not a tar file: it is cut short, altered or of another kind")
