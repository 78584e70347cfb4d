"""The six networks of the paper's cross-architecture experiment (Zhao et al., ICLR 2021, Table 2), by the names of its rows."""

from __future__ import annotations

from dataclasses import dataclass

from fastdc.options.specs import split_spec

_EVALUATED_WITH_INSTANCE_NORM = ("vgg11", "resnet18")


def evaluation_model(model: str) -> str:
    """What to train on images that were condensed with `model`: the paper's VGG and ResNet exchange batch norm for instance norm.

    A few images are too few to measure the statistics of a batch norm. ResNet is then evaluated with its strides, too.

    >>> evaluation_model("resnet18:norm=batch,downsampling=avgpool"), evaluation_model("convnet:norm=batch")
    ('resnet18', 'convnet:norm=batch')
    """
    name, options = split_spec(model)
    return name if name in _EVALUATED_WITH_INSTANCE_NORM and options.get("norm") == "batch" else model


@dataclass(frozen=True)
class PaperNetwork:
    """A row of Table 2, and a column: its name there, and the model that images are condensed with."""

    name: str
    condensed_with: str
    lr_images: float | None = None
    """Of the images, where it is not the method's own."""

    @property
    def evaluated_with(self) -> str:
        """The model that is trained on condensed images, whichever they were condensed with."""
        return evaluation_model(self.condensed_with)


PAPER_NETWORKS = (
    PaperNetwork("MLP", "mlp", lr_images=0.01),
    PaperNetwork("ConvNet", "convnet"),
    PaperNetwork("LeNet", "lenet"),
    PaperNetwork("AlexNet", "alexnet"),
    PaperNetwork("VGG", "vgg11:norm=batch"),
    PaperNetwork("ResNet", "resnet18:norm=batch,downsampling=avgpool"),
)
