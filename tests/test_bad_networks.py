"""Networks that cannot be condensed on or matched with, and what `GradientMatcher` and `match_loss` cannot take."""

from __future__ import annotations

import pytest
import torch
from bad_input import IMAGES, LABELS, REAL, SYNTHETIC, case, condense, evaluate, linear, refusal
from torch import nn

import fastdc
from fastdc.errors import FastdcError, UsageError
from fastdc.metrics import METRICS
from fastdc.models import build


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


def frozen(module):
    module[1].requires_grad_(False)


def with_another_activation(module):
    module[2] = torch.nn.SiLU()


def with_another_slope(module):
    module[2].negative_slope = 0.5


def with_a_hook(module):
    module[2].register_forward_hook(lambda _module, _inputs, output: output.sin())


def with_a_forward_of_its_own(module):
    module[2].forward = torch.sin


@pytest.mark.parametrize("engine", ["auto", "torch", "reference"])
@pytest.mark.parametrize("change", [frozen, with_another_activation, with_another_slope, with_a_hook, with_a_forward_of_its_own])
def test_a_matcher_goes_on_with_its_module_as_it_is(change, engine):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.LeakyReLU(), nn.Linear(8, 2))
    synthetic, real = torch.randn_like(SYNTHETIC), torch.randn_like(REAL)
    matcher = fastdc.GradientMatcher(module, engine=engine)
    before = matcher(synthetic, real)[0]
    change(module)
    found, expected = matcher(synthetic, real), fastdc.GradientMatcher(module, engine=engine)(synthetic, real)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert abs(found[0] - before) > 1e-3


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
