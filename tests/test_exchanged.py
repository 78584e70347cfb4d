"""Condensed images that other programs wrote: what is read, what is made of it, what networks learn from it."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import needs_extension
from PIL import Image
from torch import Tensor

import fastdc
from fastdc import CondensedDataset, DataError, UsageError
from fastdc.cli import main
from fastdc.data.sources import named
from fastdc.errors import MissingFileError

MEANS = {"mean": [0.25, 0.5, 0.75], "std": [0.5, 0.25, 0.125]}
PIXELS = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([2, 0, 1, 1, 0, 2])
SORTED = [1, 4, 2, 3, 0, 5]


def normalised(pixels: Tensor) -> Tensor:
    return (pixels - torch.tensor(MEANS["mean"])[:, None, None]) / torch.tensor(MEANS["std"])[:, None, None]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


def of_idc(place: Path) -> Path:
    torch.save([PIXELS, LABELS], place / "data.pt")
    return place / "data.pt"


def of_mtt(place: Path) -> Path:
    torch.save(normalised(PIXELS), place / "images_best.pt")
    torch.save(LABELS, place / "labels_best.pt")
    return place / "images_best.pt"


def of_ranking(place: Path) -> Path:
    torch.save(normalised(PIXELS), place / "images.pt")
    torch.save(LABELS, place / "labels.pt")
    torch.save(torch.tensor(0.01), place / "lr.pt")
    return place


def of_dc(place: Path) -> Path:
    torch.save({"data": [[normalised(PIXELS), LABELS]] * 2, "accs_all_exps": {}}, place / "res_DC.pt")
    return place / "res_DC.pt"


def of_kip(place: Path) -> Path:
    np.savez(place / "kip.npz", images=normalised(PIXELS).permute(0, 2, 3, 1).numpy(), labels=F.one_hot(LABELS).numpy())
    return place / "kip.npz"


def of_anyone_in_bytes(place: Path) -> Path:
    np.savez(place / "set.npz", x=(PIXELS * 255).round().to(torch.uint8).numpy(), y=LABELS[:, None].numpy())
    return place / "set.npz"


def of_anyone_in_a_dict(place: Path) -> Path:
    torch.save({"image_syn": torch.nn.Parameter(normalised(PIXELS)), "label_syn": LABELS.double(), "lr": 0.1}, place / "syn.pth")
    return place / "syn.pth"


WRITERS = [of_idc, of_mtt, of_ranking, of_dc, of_kip, of_anyone_in_bytes, of_anyone_in_a_dict]


@pytest.mark.parametrize("write", WRITERS)
def test_files_of_others_are_read(place: Path, write) -> None:
    condensed = CondensedDataset.load(write(place), **MEANS)
    right = normalised((PIXELS * 255).round() / 255 if write is of_anyone_in_bytes else PIXELS)[SORTED]
    torch.testing.assert_close(condensed.images, right, rtol=0, atol=2e-6)
    assert condensed.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert condensed.soft_labels is None
    assert condensed.class_names == ("0", "1", "2")
    condensed.save(place / "again.safetensors")
    assert torch.equal(CondensedDataset.load(place / "again.safetensors").images, condensed.images)


@pytest.mark.parametrize("write", [of_mtt, of_ranking, of_dc, of_kip, of_anyone_in_a_dict])
def test_normalised_images_need_the_numbers_they_were_normalised_by(place: Path, write) -> None:
    with pytest.raises(UsageError, match=r"does not say how its images are normalised; give mean= and std="):
        CondensedDataset.load(write(place))


@pytest.mark.parametrize("write", [of_idc, of_anyone_in_bytes])
def test_pixels_are_normalised_by_themselves_where_nothing_is_said(place: Path, write) -> None:
    condensed = CondensedDataset.load(write(place))
    torch.testing.assert_close(condensed.images.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(condensed.images.std((0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-5)
    assert (condensed.to_pixels() - PIXELS[SORTED]).abs().max() <= 0.5 / 255 + 1e-6


def test_tiles_of_a_file_are_images_by_the_formation_that_the_user_names(place: Path) -> None:
    condensed = CondensedDataset.load(of_idc(place), formation="tiles:factor=2", **MEANS)
    right = F.interpolate(normalised(PIXELS[1])[None, :, :4, 4:], (8, 8), mode="bilinear", align_corners=False)[0]
    assert (len(condensed), len(condensed.stored), condensed.ipc) == (24, 6, 2)
    torch.testing.assert_close(condensed.images[1], right, rtol=0, atol=2e-6)  # the second tile of the first image of class 0


def test_pixels_that_lie_a_little_outside_are_pixels(place: Path) -> None:
    torch.save([PIXELS * 1.1 - 0.05, LABELS], place / "data.pt")
    condensed = CondensedDataset.load(place / "data.pt", **MEANS)
    torch.testing.assert_close(condensed.images, normalised(PIXELS * 1.1 - 0.05)[SORTED], rtol=0, atol=2e-6)


def test_the_authors_images_are_normalised_whatever_they_look_like(place: Path) -> None:
    torch.save({"data": [[PIXELS, LABELS]], "accs_all_exps": {}}, place / "res.pt")
    assert torch.equal(CondensedDataset.load(place / "res.pt", **MEANS).images, PIXELS[SORTED])


SHARES = torch.tensor([[0.1, 0.2, 0.7], [0.8, 0.1, 0.1], [0.3, 0.4, 0.3], [0.0, 1.0, 0.0], [0.5, 0.25, 0.25], [0.0, 0.4, 0.6]])


@pytest.mark.parametrize(("labels", "said"), [(SHARES, None), (SHARES.clamp_min(1e-6).log() + 3, ["soft labels by the softmax of logits"])])
def test_soft_labels_are_shares_or_the_softmax_of_logits(place: Path, labels: Tensor, said: list[str] | None) -> None:
    of_mtt(place)
    torch.save(labels, place / "labels_best.pt")
    condensed = CondensedDataset.load(place, **MEANS)
    torch.testing.assert_close(condensed.soft_labels, SHARES[SORTED], rtol=0, atol=1e-5)
    assert condensed.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert condensed.targets is condensed.soft_labels
    assert condensed.provenance.get("changes") == said
    image, label = condensed[0]
    assert torch.equal(image, condensed.images[0])
    assert torch.equal(label, condensed.soft_labels[0])


def test_soft_labels_are_kept_by_files_and_by_what_an_item_becomes(place: Path) -> None:
    of_idc(place)
    torch.save([PIXELS, SHARES], place / "data.pt")
    condensed = CondensedDataset.load(place / "data.pt", formation="tiles:factor=2", **MEANS)
    assert torch.equal(condensed.soft_labels, SHARES[SORTED].repeat_interleave(4, 0))
    condensed.save(place / "c.safetensors")
    again = CondensedDataset.load(place / "c.safetensors")
    assert torch.equal(again.soft_labels, condensed.soft_labels)
    condensed.to_pt(place / "c.pt")
    again = CondensedDataset.from_pt(place / "c.pt", mean=condensed.mean, std=condensed.std)
    torch.testing.assert_close(again.soft_labels, condensed.soft_labels)
    with pytest.warns(UserWarning, match="its soft label does not fit there"):
        condensed.to_folder(place / "pictures")


@pytest.mark.parametrize("engine", [pytest.param("native", marks=needs_extension), "torch", "reference"])
def test_networks_are_trained_on_soft_labels(engine: str) -> None:
    condensed = fastdc.coresets.random("digits", ipc=1)
    said = {"mean": condensed.mean, "std": condensed.std, "class_names": condensed.class_names}
    options = {"model": "convnet:width=8,depth=1", "networks": 1, "epochs": 20, "engine": engine, "progress": False}
    one_hot = CondensedDataset(condensed.images, F.one_hot(condensed.labels, 10).float(), **said)
    right = fastdc.evaluate(condensed, "digits", **options).mean
    assert abs(fastdc.evaluate(one_hot, "digits", **options).mean - right) <= 0.02  # as sums go: it is the same loss
    nothing = CondensedDataset(condensed.images, torch.full((10, 10), 0.1) + 1e-3 * torch.eye(10) - 1e-4, **said)
    assert fastdc.evaluate(nothing, "digits", **options).mean < right - 0.2  # what says nothing teaches nothing
    assert nothing.labels.tolist() == list(range(10))


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (SHARES[:, :2], r"soft labels are torch.float32 of shape \[6, 2\] for 6 images of 3 classes"),
        (SHARES * 2, r"the soft label of image 0 goes from 0\.2 to 1\.4 and sums to 2; expected shares from 0 on that sum to 1"),
        (SHARES - 0.1, "the soft label of image 0"),
        (torch.full((6, 3), float("nan")), "the soft label of image 0"),
        (SHARES.half() * 1000, "the soft label of image 0"),
    ],
    ids=["of two classes", "twice", "below zero", "nan", "large"],
)
def test_soft_labels_that_are_no_shares_are_refused(labels: Tensor, match: str) -> None:
    with pytest.raises(DataError, match=match):
        CondensedDataset(PIXELS, labels, class_names="abc", **MEANS)


DEEP: list[object] = []
DEEP.append(DEEP)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([PIXELS, SHARES * float("nan")], "some labels are NaN"),
        ([PIXELS, LABELS[:4]], "4.* for 6 images"),
        ([PIXELS * float("nan"), LABELS], "NaN or infinite"),
        ([PIXELS.long(), LABELS], "images are torch.int64"),
        ([PIXELS[0, 0], LABELS], "images are torch.float32"),
        ([PIXELS[0, 0].byte(), LABELS], "images are torch.uint8 of shape"),
        ([PIXELS.to_sparse(), LABELS], "no pair of dense tensors"),
        ({"weight": PIXELS}, "expected {'data'"),
        (torch.nn.Linear(2, 2).state_dict(), "expected {'data'"),
        ([PIXELS, LABELS + 6], "names 9 classes with 6 images"),
        ([torch.zeros(1).expand(1 << 20, 3, 64, 64), LABELS], "no pair of dense tensors"),
        ({"data": [[PIXELS, LABELS]], "accs_all_exps": DEEP}, "data.pt is not a file of condensed images: .*recursion"),
    ],
)
def test_other_content_is_refused(place: Path, content: object, match: str) -> None:
    torch.save(content, place / "data.pt")
    with pytest.raises(DataError, match=match):
        CondensedDataset.load(place / "data.pt", **MEANS)


def test_means_may_be_arrays_and_a_deviation_of_zero_is_refused(place: Path) -> None:
    for path, content in ((of_idc(place), None), (place / "pictures", fastdc.coresets.random("digits", 1))):
        if content is not None:
            content.to_folder(path)
        channels = 3 if content is None else 1
        as_lists = CondensedDataset.load(path, mean=MEANS["mean"][:channels], std=MEANS["std"][:channels])
        for make in (np.array, torch.tensor, tuple):
            found = CondensedDataset.load(path, mean=make(MEANS["mean"][:channels]), std=make(MEANS["std"][:channels]))
            torch.testing.assert_close(found.images, as_lists.images)
        with pytest.raises(DataError, match=r"std above 0|std is .*numbers above 0"):
            CondensedDataset.load(path, mean=[0.5] * channels, std=[0.0] * channels)
    CondensedDataset.load(of_idc(place)).save(place / "c.safetensors")
    with pytest.raises(UsageError, match="says itself"):
        CondensedDataset.load(place / "c.safetensors", mean=np.zeros(3))


def test_soft_labels_may_be_of_more_classes_than_images(place: Path) -> None:
    shares = torch.rand(6, 20, generator=torch.Generator().manual_seed(0)).softmax(1)
    torch.save([PIXELS, shares], place / "data.pt")
    condensed = CondensedDataset.load(place / "data.pt", **MEANS)
    assert (condensed.num_classes, len(condensed), condensed.soft_labels.shape) == (20, 6, (6, 20))
    condensed.grid()


def test_images_without_a_file_of_labels_are_refused(place: Path) -> None:
    of_mtt(place)
    (place / "labels_best.pt").unlink()
    with pytest.raises(MissingFileError, match="holds images alone"):
        CondensedDataset.load(place / "images_best.pt", **MEANS)


def test_options_for_other_files_are_refused_where_a_file_says_them(place: Path) -> None:
    CondensedDataset.load(of_idc(place)).save(place / "c.safetensors")
    for option in ({"mean": [0.5] * 3}, {"formation": "tiles"}, {"experiment": 1}, {"class_names": ["a", "b", "c"]}):
        with pytest.raises(UsageError, match="says itself"):
            CondensedDataset.load(place / "c.safetensors", **option)
    with pytest.raises(UsageError, match="unknown formation 'tyles'"):
        CondensedDataset.load(place / "data.pt", formation="tyles")


def test_a_folder_of_pictures_is_numbered_by_the_names_of_the_classes(place: Path) -> None:
    condensed = fastdc.coresets.random("digits", ipc=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        condensed.to_folder(place / "written")
    for number, name in [(0, "zebra"), (1, "ant")]:
        (place / "named").mkdir(exist_ok=True)
        (place / "written" / f"{number:03d}_{number}").rename(place / "named" / name)
    zebra = CondensedDataset.load(place / "named", class_names=["zebra", "ant"])
    ant = CondensedDataset.load(place / "named")
    assert (zebra.class_names, ant.class_names) == (("zebra", "ant"), ("ant", "zebra"))
    assert torch.equal(zebra.images[:2], ant.images[2:])
    with pytest.raises(DataError, match="ant is called as no class is; expected dog, cat, or their numbers"):
        CondensedDataset.load(place / "named", class_names=["dog", "cat"])
    with pytest.raises(DataError, match="expected one order"):
        fastdc.evaluate(ant, fastdc.ImageData.of(*_bytes(2), class_names=["zebra", "ant"]), networks=1, progress=False)


def test_folders_that_are_numbers_are_numbers_and_names_come_first(place: Path) -> None:
    (place / "p").mkdir()
    fastdc.coresets.random("digits", ipc=1).to_folder(place / "w")
    for number in range(10):
        (place / "w" / f"{number:03d}_{number}").rename(place / "p" / str(number))
    plain = CondensedDataset.load(place / "p")
    turned = CondensedDataset.load(place / "p", class_names=[str(9 - number) for number in range(10)])
    assert torch.equal(plain.images, turned.images.flip(0))
    words = CondensedDataset.load(place / "p", class_names=list("abcdefghij"))
    assert torch.equal(plain.images, words.images)


def _bytes(classes: int) -> tuple[Tensor, Tensor]:
    return torch.randint(0, 256, (4 * classes, 1, 8, 8), dtype=torch.uint8), torch.arange(classes).repeat(4)


def test_the_commands_take_what_others_wrote(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    condensed = fastdc.coresets.random("digits", ipc=1)
    torch.save([condensed.to_pixels(), condensed.labels], "data.pt")
    condensed.to_folder("pictures")
    options = ["--dataset", "digits", "--model", "mlp:width=8", "--networks", "1", "--epochs", "5", "--quiet"]
    said = []
    for path, more in (("data.pt", []), ("pictures", []), ("data.pt", ["--formation", "tiles:factor=2"])):
        assert main(["evaluate", path, *options, *more]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert said[2] != said[0]
    assert main(["evaluate", "pictures", "--quiet"]) == 2
    assert "--dataset" in capsys.readouterr().err
    assert main(["show", "pictures", "--dataset", "digits", "--quiet"]) == 0
    assert Path("pictures.png").is_file()


@pytest.mark.parametrize(
    ("accuracies", "std"), [({"ConvNet": [0.25]}, (0.2023, 0.1994, 0.2010)), ({}, None)], ids=["of the authors", "of to_pt"]
)
def test_the_authors_cifar10_has_its_pixels(
    accuracies: dict[str, list[float]], std: tuple[float, ...] | None, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fastdc.ImageData.of((PIXELS * 255).round().to(torch.uint8), LABELS, name="cifar10")
    monkeypatch.setitem(named._LOADERS, "cifar10", lambda root: (real, real))
    by = {"mean": (0.4914, 0.4822, 0.4465), "std": std} if std is not None else {"mean": real.mean, "std": real.std}
    stored = (PIXELS - torch.tensor(by["mean"])[:, None, None]) / torch.tensor(by["std"])[:, None, None]
    torch.save({"data": [[stored, LABELS]], "accs_all_exps": accuracies}, place / "res.pt")
    monkeypatch.chdir(place)
    assert main(["show", "res.pt", "--dataset", "cifar10", "--quiet"]) == 0
    with Image.open("res.png") as picture:
        assert picture.tobytes() == CondensedDataset(stored, LABELS, class_names="abc", **by).grid().tobytes()


def test_tables_and_searches_take_some_classes_and_a_size(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = ["--dataset", "digits", "--classes", "3", "8", "--image-size", "12", "--ipc", "1", "--scale", "tiny", "--quiet"]
    assert main(["table", "coresets", *some, "--columns", "random", "--out", str(place / "table")]) == 0
    assert "digits" in capsys.readouterr().out
    small = ["--networks", "2", "--widths", "8", "--depths", "1", "--top", "1", "--random-truths", "1", "--proxies", "random"]
    assert main(["search", *some, *small, "--out", str(place / "search")]) == 0
    for folder in ("table", "search"):
        assert "; only the classes 3, 8), " in (place / folder / "table.md").read_text()
    sets = [CondensedDataset.load(file) for file in place.rglob("condensed.safetensors")]
    assert sets
    assert all((found.class_names, found.image_size) == (("3", "8"), (12, 12)) for found in sets)
