"""The edge of fastdc._C.ConvNet: what does not fit is refused by name, and nothing is read or written beside what was given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import INSTRUCTION_SETS
from test_cpp_bindings import read_only, run_apart

from fastdc.runtime import compiled

pytestmark = pytest.mark.skipif(compiled.extension is None, reason=f"fastdc._C is not there ({compiled.state('cpp')})")

# Two blocks of 8 features on 2 x 6 x 7 images, average pooling, 3 classes: after them 1 x 1 pixel.
CHANNELS, HEIGHT, WIDTH, CLASSES, EACH, FEATURES = 2, 6, 7, 3, 2, 8
OUTPUTS = {"logit": CLASSES, "feature": FEATURES}  # and how many numbers an image has of each
BIG = 2**62
NORMS: tuple[str, ...] = () if compiled.extension is None else compiled.extension.NORMS
INSTANCE, LAYER, BATCH, NO_NORM = "instance", "layer", "batch", "none"


def plan(norm: str = INSTANCE, dtype: Any = np.float32, **changes: Any) -> dict[str, Any]:
    """What describes a network that works, by names of `make`; statistics where the norm is batch."""
    blocks: dict[str, list[Any]] = {"weight": [], "bias": [], "gamma": [], "beta": [], "mean": [], "variance": []}
    end = 0
    for block, (rows, columns) in enumerate([(HEIGHT, WIDTH), (HEIGHT // 2, WIDTH // 2)]):
        affine = 8 * rows * columns if norm == LAYER else 8
        for name, size in [("weight", 8 * (8 if block else CHANNELS) * 9), ("bias", 8), ("gamma", affine), ("beta", affine)]:
            blocks[name].append(end)
            end += size
        for name in ("mean", "variance"):
            blocks[name].append(np.ones(8, dtype) if norm == BATCH else None)
    numbers = {"channels": CHANNELS, "height": HEIGHT, "width": WIDTH, "features": 8, "classes": CLASSES}
    numbers |= {
        "kernel": (3, 3),
        "stride": 1,
        "padding": 1,
        "groups": 4,
        "norm": norm,
        "activation": "relu",
        "pooling": "avg",
        "parameters": end + CLASSES * 9,
    }
    return {**numbers, **blocks, "linear_weight": end, "linear_bias": end + CLASSES * 8, **changes}


def make(given: dict[str, Any]) -> Any:
    """The network of such a plan."""
    names = ("weight", "bias", "gamma", "beta", "mean", "variance")
    blocks = [dict(zip(names, block, strict=True)) for block in zip(*(given[name] for name in names), strict=True)]
    convolution = compiled.extension.Convolution(**{name: given[name] for name in ("kernel", "stride", "padding")})
    of_layers = ("norm", "activation", "pooling", "groups", "epsilon", "slope")
    layers = compiled.extension.Layers(**{name: given[name] for name in of_layers if name in given})
    alike = {"features": given["features"], "convolution": convolution, "layers": layers, "momentum": given.get("momentum", 0.1)}
    if "windows" in given:
        alike["windows"] = compiled.extension.Windows(**given["windows"])
    return compiled.extension.ConvNet(
        image=(given["channels"], given["height"], given["width"]),
        blocks=[compiled.extension.Block(**alike, **block) for block in blocks],
        classifier=(given["linear_weight"], given["linear_bias"]),
        **{name: given[name] for name in ("classes", "parameters")},
    )


def f(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


def whole(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.int64)


P = plan()["parameters"]
IMAGE = (CHANNELS, HEIGHT, WIDTH)


def arguments(job: str, dtype: Any = np.float32, parameters: int = P) -> dict[str, Any]:
    """A call of a job that works; outputs are NaN."""
    random = np.random.default_rng(0)
    images = random.standard_normal((CLASSES, EACH, *IMAGE)).astype(dtype)
    flat = images.reshape(-1, *IMAGE)
    theta = (0.3 * random.standard_normal(parameters)).astype(dtype)
    labels, nan = np.arange(CLASSES), np.full
    return {
        "class_gradients": {"images": images, "labels": labels, "gradients": nan((CLASSES, parameters), np.nan, dtype)},
        "image_gradients": {
            "images": images,
            "cotangent": np.ones((CLASSES, parameters), dtype),
            "labels": labels,
            "gradients": nan(images.shape, np.nan, dtype),
        },
        "hessian_products": {
            "images": images,
            "direction": np.ones(parameters, dtype),
            "labels": labels,
            "by_weights": nan(parameters, np.nan, dtype),
            "by_images": nan(images.shape, np.nan, dtype),
        },
        "train": {"images": flat, "labels": labels.repeat(EACH), "order": np.array([[5, 4, 3, 2, 1, 0], [0, 2, 4, 1, 3, 5]])}
        | {"velocity": np.zeros(parameters, dtype)}
        | {"batch": 4, "lr": 0.1, "momentum": 0.5, "weight_decay": 0.01},
        "logits": {"images": flat, "logits": nan((CLASSES * EACH, CLASSES), np.nan, dtype)},
        "features": {"images": flat, "features": nan((CLASSES * EACH, FEATURES), np.nan, dtype)},
        **{
            f"{name}_gradients": {
                "images": flat,
                "cotangent": random.standard_normal((CLASSES * EACH, size)).astype(dtype),
                "gradients": nan(flat.shape, np.nan, dtype),
            }
            for name, size in OUTPUTS.items()
        },
    }[job] | {"theta": theta, "threads": 1}


GROUPS = {"sgd": ("batch", "lr", "momentum", "weight_decay"), "distillation": ("shares", "groups", "temperature")}
JOBS = ("class_gradients", "image_gradients", "hessian_products", "train", "logits", "features", "logit_gradients", "feature_gradients")


def output_of(job: str) -> str:
    names = {"train": "theta", "logits": "logits", "features": "features", "hessian_products": "by_weights"}
    return names.get(job, "gradients")


def is_input(job: str, key: str) -> bool:
    return key not in (output_of(job), "velocity", "by_images")


def call(job: str, network: Any = None, **changes: Any) -> dict[str, Any]:
    given = {**arguments(job), **changes}
    run(job, network if network is not None else make(plan()), given)
    return given


def run(job: str, network: Any, given: dict[str, Any]) -> None:
    """Calls the job, its options of training grouped as it wants them."""
    given = dict(given)
    for name, make_group in (("sgd", compiled.extension.Sgd), ("distillation", compiled.extension.Distillation)):
        options = {key: given.pop(key) for key in GROUPS[name] if key in given}
        given |= {name: make_group(**options)} if options else {}
    getattr(network, job)(**given)


# The network

NO_BLOCKS: dict[str, list[Any]] = {name: [] for name in ("weight", "bias", "gamma", "beta", "mean", "variance")}
NETWORKS: dict[str, dict[str, Any]] = {
    **{f"{name} {value}": {name: value} for name in ("channels", "height", "width", "stride", "classes") for value in (0, -1, BIG)},
    **{f"padding {value}": {"padding": value} for value in (-1, 17, BIG)},
    **{f"kernel {value}": {"kernel": value} for value in ((0, 3), (3, -1), (9, 3), (3, 10), (BIG, 3), (3, 2**63 - 1))},
    **{f"{name} {value!r}": {name: value} for name in ("norm", "activation", "pooling") for value in ("", "gelu", "Instance")},
    **{f"groups {value}": {"groups": value} for value in (0, -1, 3, 9, 16, BIG)},
    **{f"{name} {value}": {name: value} for name in ("epsilon", "slope") for value in (-1.0, float("inf"), float("nan"))},
    "no epsilon": {"epsilon": 0.0},
    **{f"features {value}": {"features": value} for value in (0, -8, 4, 12, 2**16 + 8, BIG)},
    "no blocks": NO_BLOCKS | {"expected": "blocks"},
    "17 blocks": {name: value[:1] * 17 for name, value in plan().items() if name in NO_BLOCKS} | {"expected": "blocks"},
    **{f"weight at {value}": {"weight": [0, value]} for value in (-1, -(2**63), P - 575, P, BIG, 2**63 - 1)},
    **{f"first weight at {value}": {"weight": [value, 0]} for value in (-1, P - 143, 2**63 - 1)},
    **{f"{name} at {value}": {name: [0, value]} for name in ("bias", "gamma", "beta") for value in (-1, P - 7, BIG, 2**63 - 1)},
    **{f"{name} nowhere": {name: [0, None]} for name in ("gamma", "beta")},
    **{f"linear_weight at {value}": {"linear_weight": value} for value in (-1, P - 23, BIG, 2**63 - 1)},
    **{f"linear_bias at {value}": {"linear_bias": value} for value in (-1, P - 2, BIG, 2**63 - 1)},
    "classes that do not fit": {"classes": CLASSES + 2},
    "classes that are too many": {"classes": 2**16 + 1},
    "height of another network": {"height": 12, "expected": "linear_weight"},
    "width of another network": {"width": 28, "expected": "linear_weight"},
    "pooling of another network": {"pooling": "none", "expected": "linear_weight"},
    "scales of a layer norm beyond the end": {"norm": "layer", "gamma": [0, plan("layer")["parameters"] - 71], "expected": "gamma"},
    "no parameters": {"parameters": 0, "expected": "weight"},
    "negative parameters": {"parameters": -1, "expected": "weight"},
    "as few parameters as there are": {"parameters": -(2**63), "expected": "weight"},
    "pooling that leaves nothing": {"height": 3, "expected": "blocks"},
    "pooling that leaves no column": {"width": 1, "expected": "blocks"},
    "sizes that overflow to nothing": {"height": 2**16, "width": 2**16, "features": 2**16, "classes": 2**16, "pooling": "none"}
    | {name: [0 if name == "weight" else None] for name in NO_BLOCKS}
    | {"channels": 1, "norm": NO_NORM, "parameters": BIG, "linear_bias": None, "expected": r"\w+"},
    **{f"{name} of no batch norm": {"norm": BATCH, name: [None, None], "expected": name} for name in ("mean", "variance")},
    **{
        f"windows of {name} {value}": {"windows": {"kind": "avg", "kernel": (2, 2), name: value}, "expected": name}
        for name, value in [("kernel", (0, 1)), ("kernel", (1, BIG)), ("stride", (1, 0)), ("padding", (0, 2)), ("padding", (-1, 0))]
    },
    "windows of another kind": {"windows": {"kind": "median", "kernel": (2, 2)}, "expected": "kind"},
    "windows larger than their map": {"windows": {"kind": "max", "kernel": (60, 60)}, "expected": "blocks"},
    "windows over nothing": {"height": 1, "windows": {"kind": "adaptive", "kernel": (3, 3)}, "expected": "blocks"},
    "windows of another network": {"windows": {"kind": "adaptive", "kernel": (9, 9)}, "expected": "linear_weight"},
    "statistics of other length": {"norm": BATCH, "mean": [f(8), f(7)], "expected": "mean"},
    "statistics of two dimensions": {"norm": BATCH, "variance": [f(8), f(1, 8)], "expected": "variance"},
    "statistics with gaps": {"norm": BATCH, "variance": [f(16)[::2], f(8)], "expected": "variance"},
}


@pytest.mark.parametrize("changes", NETWORKS.values(), ids=NETWORKS)
def test_a_network_that_does_not_fit_is_refused_by_name(changes: dict[str, Any]) -> None:
    changes = dict(changes)
    names = changes.pop("expected", None) or "|".join({*changes, "linear_weight"} if "classes" in changes else changes)
    with pytest.raises(ValueError, match=rf"^({names}) is .*; expected .*\.$"):
        make(plan(**changes))


OPTIONAL = ("bias", "gamma", "beta", "mean", "variance", "linear_bias")  # of which some networks have none


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in plan() for value in (None, "text", 2**70, 1.5) if value is not None or name not in OPTIONAL],
)
def test_a_network_of_what_is_no_number_is_refused(name: str, value: Any) -> None:
    if name in ("norm", "activation", "pooling"):  # which are text
        value = [value]
    with pytest.raises(TypeError, match=r"ConvNet|Layers|Block|Convolution"):
        make(plan(**{name: [plan()[name][0], value] if name in NO_BLOCKS else value}))


def test_a_network_without_a_part_is_refused() -> None:
    given = {"image": IMAGE, "classes": CLASSES, "classifier": (0, 0), "parameters": P, "blocks": []}
    for name in given:
        with pytest.raises(TypeError, match="ConvNet"):
            compiled.extension.ConvNet(**{key: value for key, value in given.items() if key != name})


@pytest.mark.parametrize("job", JOBS)
def test_statistics_are_of_the_dtype_of_the_weights(job: str) -> None:
    for variance in (f(8, dtype=np.float64), f(8, dtype=np.int32), f(8, dtype=">f4")):
        network = make(plan(BATCH, variance=[f(8), variance]))
        with pytest.raises(ValueError, match=r"^statistics is .*; expected float32 \[8\], contiguous, aligned\.$"):
            call(job, network)


def test_training_moves_the_statistics_of_batch_norms_where_they_lie() -> None:
    statistics = {name: [np.full(8, 0.5, np.float32) for _ in range(2)] for name in ("mean", "variance")}
    call("train", make(plan(BATCH, momentum=0.0, **statistics)))
    assert all((each == 0.5).all() for pair in statistics.values() for each in pair)
    call("train", make(plan(BATCH, momentum=0.5, **statistics)))
    assert all((each != 0.5).all() for pair in statistics.values() for each in pair)


def test_training_refuses_statistics_that_it_cannot_move_and_batches_without_any() -> None:
    given = arguments("train")
    before = given["theta"].copy()
    fixed = f(8)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match=r"^statistics is .*; expected float32 \[8\], contiguous, aligned and writeable\.$"):
        run("train", make(plan(BATCH, mean=[f(8), fixed])), given)
    extension = compiled.extension
    block = extension.Block(
        features=8,
        convolution=extension.Convolution(kernel=IMAGE[1:]),
        layers=extension.Layers(norm=BATCH, activation="relu", pooling="none"),
        weight=0,
        gamma=0,
        beta=0,
        mean=f(8),
        variance=f(8),
    )
    size = 8 * CHANNELS * HEIGHT * WIDTH
    network = extension.ConvNet(image=IMAGE, classes=CLASSES, blocks=[block], classifier=(0, None), parameters=size)
    with pytest.raises(ValueError, match=r"^batch is 1; expected a size of which no batch has one number of each channel"):
        run("train", network, arguments("train", parameters=size) | {"batch": 1})
    np.testing.assert_array_equal(given["theta"], before)


def test_statistics_stay_alive_with_the_network() -> None:
    def statistics() -> dict[str, list[np.ndarray]]:
        return {name: [np.full(8, 0.5 + i, np.float32) for i in range(2)] for name in ("mean", "variance")}

    kept = plan(BATCH, **statistics())
    expected = call("logits", make(kept))["logits"]
    network = make(plan(BATCH, **statistics()))
    filler = [np.full(8, np.nan, np.float32) for _ in range(1000)]
    np.testing.assert_array_equal(call("logits", network)["logits"], expected)
    assert len(filler) == 1000


# The calls


def wrong(*shape: int) -> dict[str, np.ndarray]:
    """Arrays that are not float32 of that shape, contiguous."""
    return {
        "of fewer dimensions": f(*shape[1:]),
        "of more dimensions": f(1, *shape),
        "one longer": f(*shape[:-1], shape[-1] + 1),
        "one shorter": f(*shape[:-1], shape[-1] - 1),
        "of no length": f(*shape[:-1], 0),
        "one more at the front": f(shape[0] + 1, *shape[1:]),
        "of doubles": f(*shape, dtype=np.float64),
        "of halves": f(*shape, dtype=np.float16),
        "of integers": f(*shape, dtype=np.int32),
        "of objects": f(*shape, dtype=object),
        "of the other byte order": f(*shape, dtype=">f4"),
        "with gaps": f(*shape[:-1], 2 * shape[-1])[..., ::2],
        "backwards": f(*shape)[..., ::-1],
        "by columns": np.asfortranarray(f(*shape)) if len(shape) > 1 else f(*shape)[::-1],
        "of one element repeated": np.broadcast_to(f(1), shape),
    }


BAD_THETAS = {what: value for what, value in wrong(P).items() if what not in ("of doubles", "one more at the front")}
BAD_LABELS = {
    "of int32": whole(CLASSES).astype(np.int32),
    "of floats": f(CLASSES),
    "of two dimensions": whole(1, CLASSES),
    "too few": whole(CLASSES - 1),
    "too many": whole(7),
    "with gaps": whole(2 * CLASSES)[::2],
}
OUTSIDE = (-1, CLASSES, BIG, -(2**63), 2**63 - 1)
FLAT = (CLASSES * EACH, *IMAGE)

REFUSED: dict[str, tuple[str, str, Any]] = {}
for job in JOBS:
    by_class, output = job in ("class_gradients", "image_gradients", "hessian_products"), job.partition("_")[0]
    shape = (CLASSES, EACH, *IMAGE) if by_class else FLAT
    cases: list[tuple[str, str, Any]] = [("theta", what, value) for what, value in BAD_THETAS.items()]
    cases += [("images", what, value) for what, value in wrong(*shape).items() if what != "one more at the front"]
    cases += [("threads", str(value), value) for value in (0, -1, -(2**31), 2**12 + 1)]
    if job.endswith("gradients"):
        written = (CLASSES, P) if job == "class_gradients" else shape
        cases += [("gradients", what, value) for what, value in wrong(*written).items()]
        cases += [("gradients", "read only", read_only(f(*written)))]
    if by_class:
        cases += [("images", "of no image", f(CLASSES, 0, *IMAGE))]
        cases += [("labels", what, value) for what, value in BAD_LABELS.items()]
        cases += [("labels", f"with {value}", np.array([0, 1, value])) for value in OUTSIDE]
    if job == "image_gradients":
        cases += [("cotangent", what, value) for what, value in wrong(CLASSES, P).items()]
    if job == "hessian_products":
        cases += [(name, what, value) for name in ("direction", "by_weights") for what, value in wrong(P).items()]
        cases += [("by_images", what, value) for what, value in wrong(*shape).items()]
        cases += [(name, "read only", read_only(f(*size))) for name, size in (("by_weights", (P,)), ("by_images", shape))]
        cases += [("images", "of no class", f(0, EACH, *IMAGE))]
    if output in OUTPUTS:
        cases += [("cotangent", what, value) for what, value in wrong(CLASSES * EACH, OUTPUTS[output]).items()]
    if job == "train":
        cases += [("theta", "read only", read_only(f(P))), ("velocity", "read only", read_only(f(P)))]
        cases += [("velocity", what, value) for what, value in wrong(P).items()]
        cases += [("labels", f"soft, {what}", value) for what, value in wrong(CLASSES * EACH, CLASSES).items() if value.ndim == 2]
        cases += [("labels", what, value.repeat(EACH) if what == "of int32" else value) for what, value in BAD_LABELS.items()]
        cases += [("labels", f"with {value}", np.array([0, 1, 2, 0, 1, value])) for value in OUTSIDE]
        cases += [("order", f"with {value}", np.array([[0, 1, 2, 3, 4, value]])) for value in (-1, 6, BIG, -(2**63), 2**63 - 1)]
        cases += [("order", "of int32", whole(2, 6).astype(np.int32)), ("order", "of one dimension", whole(6))]
        cases += [("order", "too short", whole(2, 5)), ("order", "too long", whole(2, 7)), ("order", "by columns", whole(6, 2).T)]
        cases += [("batch", str(value), value) for value in (0, -1, -(2**63))]
        cases += [("shares", what, value) for what, value in wrong(CLASSES * EACH, 2).items()]
        cases += [("groups", str(value), value) for value in ([0], [-1, 2], [1, CLASSES], [CLASSES + 1], [2**63 - 1, 2])]
        cases += [("temperature", str(value), value) for value in (0.0, -2.0, float("nan"))]
    if job in ("logits", "features"):
        written = (CLASSES * EACH, OUTPUTS[job[:-1]])
        cases += [(job, what, value) for what, value in wrong(*written).items()]
        cases += [(job, "read only", read_only(f(*written)))]
    REFUSED |= {f"{job}: {name} {what}": (job, name, value) for name, what, value in cases}


DISTILLED = {"shares": np.full((CLASSES * EACH, 2), 0.5, np.float32), "groups": [2], "temperature": 2.0}


@pytest.mark.parametrize(("job", "name", "value"), REFUSED.values(), ids=REFUSED)
def test_an_argument_that_does_not_fit_is_refused_by_name_and_nothing_is_written(job: str, name: str, value: Any) -> None:
    given = {**arguments(job), **(DISTILLED if name in DISTILLED else {}), name.split()[-1]: value}
    before = {key: each.copy() for key, each in given.items() if isinstance(each, np.ndarray)}
    with pytest.raises(ValueError, match=rf"^{name} is .*; expected .*\.$"):
        run(job, make(plan()), given)
    for key, each in before.items():
        np.testing.assert_array_equal(given[key], each)


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("value", [None, "text", [0.0] * P, 2**70], ids=lambda value: str(value)[:9])
def test_what_is_of_another_type_is_refused(job: str, value: Any) -> None:
    for name in arguments(job):
        if not (isinstance(value, int) and name in ("lr", "momentum", "weight_decay")):
            with pytest.raises(TypeError, match=rf"{job}|Sgd"):
                call(job, **{name: value})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_to_do_is_done(dtype: Any) -> None:
    network = make(plan())
    theta, none = np.ones(P, dtype), np.zeros((0, 4, *IMAGE), dtype)
    sgd = compiled.extension.Sgd(batch=4, lr=1, momentum=1, weight_decay=1)
    network.logits(theta, none[:, 0], np.zeros((0, CLASSES), dtype), threads=2)
    network.features(theta, none[:, 0], np.zeros((0, FEATURES), dtype), threads=2)
    network.logit_gradients(theta, none[:, 0], np.zeros((0, CLASSES), dtype), none[:, 0].copy(), threads=2)
    network.feature_gradients(theta, none[:, 0], np.zeros((0, FEATURES), dtype), none[:, 0].copy(), threads=2)
    network.train(theta, np.ones(P, dtype), none[:, 0], whole(0), whole(3, 0), sgd=sgd, threads=2)
    flat = np.zeros(FLAT, dtype)
    network.train(theta, np.ones(P, dtype), flat, whole(len(flat)), whole(0, len(flat)), sgd=sgd, threads=2)
    assert (theta == 1).all()


NO_CLASSES = """
import numpy as np
import test_native_bindings as t
network, theta = t.make(t.plan()), np.ones(t.P, np.float32)
network.class_gradients(theta, t.f(0, 4, *t.IMAGE), t.whole(0), t.f(0, t.P), threads=2)
network.image_gradients(theta, t.f(0, 4, *t.IMAGE), t.f(0, t.P), t.whole(0), t.f(0, 4, *t.IMAGE), threads=2)
print("done")
"""


def test_no_classes_are_no_work() -> None:
    done = run_apart(NO_CLASSES, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr


# Memory


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("count", [1, 2**12])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_more_threads_than_work_or_processors(job: str, count: int, dtype: Any) -> None:
    expected = call(job, **arguments(job, dtype))
    found = call(job, **{**arguments(job, dtype), "threads": count})
    np.testing.assert_array_equal(found[output_of(job)], expected[output_of(job)])
    assert np.isfinite(found[output_of(job)]).all()


@pytest.mark.parametrize("batch", [6, 7, 2**63 - 1])
def test_a_batch_larger_than_the_data_is_all_of_them(batch: int) -> None:
    np.testing.assert_array_equal(call("train", batch=batch)["theta"], call("train", batch=6)["theta"])


def test_shares_of_one_class_are_that_class() -> None:
    soft = np.eye(CLASSES, dtype=np.float32)[arguments("train")["labels"]]
    found, expected = (call("train", **given)["theta"] for given in ({"labels": soft}, {}))
    assert np.linalg.norm(found - expected) < 1e-6 * np.linalg.norm(expected)
    assert np.abs(call("train", labels=soft[::-1].copy())["theta"] - call("train")["theta"]).max() > 1e-3


def test_training_goes_on_from_the_velocity_that_it_is_given() -> None:
    order = arguments("train")["order"]
    first = call("train", order=order[:1])
    second = call("train", order=order[1:], theta=first["theta"], velocity=first["velocity"])
    whole_run = call("train")
    for name in ("theta", "velocity"):
        np.testing.assert_array_equal(second[name], whole_run[name])
    assert (whole_run["velocity"] != 0).any()


def test_positions_may_come_twice_or_not_at_all() -> None:
    found = call("train", order=np.full((2, 6), 3))["theta"]
    images = np.repeat(arguments("train")["images"][3:4], 6, 0)
    np.testing.assert_array_equal(found, call("train", images=images, labels=np.full(6, 1))["theta"])


GIVEN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "read only": lambda x: read_only(x.copy()),
    "not at 64 bytes": lambda x: np.concatenate([x.ravel()[:1], x.ravel()])[1:].reshape(x.shape),
}


@pytest.mark.parametrize("job", JOBS)
def test_inputs_at_an_odd_address_are_refused(job: str) -> None:
    for key, each in arguments(job).items():
        if isinstance(each, np.ndarray):
            odd = np.frombuffer(bytearray(b"\0" + each.tobytes()), np.uint8)[1:].view(each.dtype).reshape(each.shape)
            with pytest.raises(ValueError, match=rf"^{key} is .*; expected .*aligned"):
                call(job, **{key: odd})


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("view", GIVEN.values(), ids=GIVEN)
@pytest.mark.parametrize("norm", NORMS)
def test_inputs_that_are_unusual_and_right_are_taken(view: Callable[[np.ndarray], np.ndarray], norm: str, name: str) -> None:
    compiled.extension.select_instruction_set(name)
    try:
        network = plan(norm)
        parameters = network["parameters"]
        for job in JOBS:
            if job == "train" and norm == "batch":
                continue
            given = arguments(job, parameters=parameters)
            inputs = {key: view(each) for key, each in given.items() if isinstance(each, np.ndarray) and is_input(job, key)}
            moved = network | ({name: [view(each) for each in network[name]] for name in ("mean", "variance")} if norm == BATCH else {})
            found = call(job, make(moved), **{**given, **inputs})[output_of(job)]
            expected = call(job, make(network), **arguments(job, parameters=parameters))[output_of(job)]
            np.testing.assert_array_equal(found, expected)
    finally:
        compiled.extension.select_instruction_set(INSTRUCTION_SETS[0])


BESIDE_A_WALL = """
import ctypes, mmap
import numpy as np
import test_native_bindings as t

kept = []

def between_walls(array, end):
    # a copy that ends, or begins, at a page that must not be touched; the rest of its own pages is NaN and stays as it is
    page, length = mmap.PAGESIZE, -(-array.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, length + 2 * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for wall in (0, length + page):
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + wall), page, 0) == 0
    inner = np.frombuffer(memory, np.uint8, length, page)
    inner[...] = 255
    begin = length - array.nbytes if end else 0
    view = inner[begin:begin + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    kept.append((memory, inner, begin, array.nbytes))
    return view

for name in t.INSTRUCTION_SETS:
    t.compiled.extension.select_instruction_set(name)
    for dtype in (np.float32, np.float64):
        for norm in t.NORMS:
            for pooling in ("avg", "max"):
                for end in (True, False):
                    network = t.plan(norm, dtype, pooling=pooling)
                    if norm == t.BATCH:
                        network |= {name: [between_walls(each, end) for each in network[name]] for name in ("mean", "variance")}
                    plan = t.make(network)
                    for job in t.JOBS:
                        if job == "train" and norm == 'batch':
                            continue
                        given = t.arguments(job, dtype, network["parameters"])
                        given = {k: between_walls(v, end) if isinstance(v, np.ndarray) else v for k, v in given.items()}
                        t.call(job, plan, **given)
                        assert np.isfinite(given[t.output_of(job)]).all()
                    for _, inner, begin, size in kept:
                        assert (inner[:begin] == 255).all() and (inner[begin + size:] == 255).all()
                    kept.clear()
print("done")
"""


def test_nothing_is_read_or_written_beside_the_arrays() -> None:
    done = run_apart(BESIDE_A_WALL, timeout=100)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr


TOO_LARGE = """
import numpy as np
import test_native_bindings as t
side = 2**16
for features, classes, channels in ((2**16, 2**16, 1), (2**16, 2**15, 2), (8, 2**16, 2**16)):
    try:
        network = t.make(t.plan(
            t.NO_NORM, height=side, width=side, features=features, classes=classes, channels=channels, pooling="none", weight=[0], groups=1,
            bias=[None], gamma=[None], beta=[None], mean=[None], variance=[None], linear_weight=0, linear_bias=None,
            parameters=9 * features * channels))
        theta = np.zeros(9 * features * channels, np.float32)
        network.logits(theta, t.f(0, channels, side, side), t.f(0, classes), threads=1)
    except (ValueError, MemoryError) as error:
        print("refused:", error)
"""


def test_a_network_too_large_for_64_bits_is_refused() -> None:
    done = run_apart(TOO_LARGE, timeout=60)
    assert (done.returncode, done.stdout.count("refused")) == (0, 3), done.stderr


@pytest.mark.parametrize("job", ["class_gradients", "image_gradients"])
@pytest.mark.parametrize(
    "spoil",
    [lambda a: a[1:], lambda a: a.astype(np.float64), lambda a: np.repeat(a, 2)[::2], read_only, lambda a: a.tolist()],
    ids=["short", "another dtype", "apart", "read-only", "a list"],
)
def test_a_record_that_does_not_fit_is_refused_and_nothing_is_written(job: str, spoil: Callable[[np.ndarray], Any]) -> None:
    network = make(plan())
    call = arguments(job)
    record = np.zeros(network.record_size(CLASSES, EACH, of_double=False), np.float32)
    with pytest.raises(TypeError if isinstance(spoil(record), list) else ValueError, match="record"):
        getattr(network, job)(**call, record=spoil(record))
    assert np.isnan(call["gradients"]).all()
    assert not record.any()


def test_a_record_stands_for_the_passes_that_wrote_it() -> None:
    network = make(plan())
    record = np.full(network.record_size(CLASSES, EACH, of_double=False), np.nan, np.float32)
    call = arguments("image_gradients")
    network.image_gradients(**call)
    expected = call["gradients"].copy()
    network.class_gradients(**arguments("class_gradients"), record=record)
    network.image_gradients(**(call | {"images": call["images"].copy()}), record=record)
    np.testing.assert_allclose(call["gradients"], expected, rtol=1e-5)


@pytest.mark.parametrize(("classes", "each"), [(-1, 1), (1, 0), (2**40, 1), (1, 2**40), (2**20, 2**24), (2**20, 2**22)])
def test_the_size_of_an_impossible_record_is_refused(classes: int, each: int) -> None:
    with pytest.raises(ValueError, match=r"classes|each"):
        make(plan()).record_size(classes, each, of_double=False)
