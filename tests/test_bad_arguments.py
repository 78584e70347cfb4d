"""Arguments of `condense` and `evaluate` that cannot be used: a sentence in one line, and nothing written before is lost."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import torch
from bad_input import FLOATS, IMAGES, LABELS, REAL, SYNTHETIC, case, condense, condensed_of, evaluate, image_data, linear, refusal
from torch import nn

import fastdc
from fastdc.errors import DataError, FastdcError, RunError, UsageError


def test_what_the_bad_inputs_are_variations_of_is_good():
    assert len(condense()) == 2
    assert len(image_data()) == 40
    assert 0 <= evaluate().mean <= 1
    assert fastdc.GradientMatcher(linear())(SYNTHETIC, REAL)[0].item() > 0
    assert len(condensed_of()) == 4


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


@pytest.mark.parametrize("formation", ["tiles", "frequency:images=4"])
def test_a_class_of_too_few_images_for_one_that_is_stored_gets_advice_that_can_be_followed(formation):
    labels = np.array([0] * 2 + [1] * 38)
    with refusal(UsageError, "class '0' has 2 images to start from; use a formation of fewer images each, or init='noise'"):
        condense(data=(IMAGES, labels), formation=formation, init="real")


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
