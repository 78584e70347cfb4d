"""Arrays, datasets and condensed sets that cannot be used: each gets a sentence in one line."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_input import FLOATS, IMAGES, LABELS, case, condense, condensed_of, image_data, refusal
from helpers import Items
from torch.utils.data import DataLoader, IterableDataset

import fastdc
from fastdc.data import as_image_data
from fastdc.errors import DataError, UsageError


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
    ("images", "labels", "match"),
    [
        case("numpy", IMAGES, torch.from_numpy(LABELS), "images is a ndarray; expected a tensor: torch.from_numpy makes one"),
        case("labels of numpy", torch.from_numpy(IMAGES), LABELS, "labels is a ndarray; expected a tensor"),
        case("floats", FLOATS, torch.from_numpy(LABELS), r"images are torch\.float32 of shape \[40, 1, 8, 8\]; expected uint8"),
        case(
            "rank 3",
            torch.from_numpy(IMAGES[:, 0]),
            torch.from_numpy(LABELS),
            r"of shape \[40, 8, 8\]; expected uint8 \[N, channels, H, W\]",
        ),
    ],
)
def test_what_no_image_data_is_made_of(images, labels, match):
    with refusal(DataError, match):
        fastdc.ImageData.of(images, labels)


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


def test_classes_without_images_have_no_row_in_the_picture():
    few = condensed_of(class_names=[str(number) for number in range(100_000)])
    assert few.grid().size == condensed_of().grid().size
