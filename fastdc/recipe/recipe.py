"""What a recipe is: the five choices of a method, and its numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A method: its five choices, each a name with options such as "fresh:train=synthetic", and the numbers that are usual with them.

    Example:
        >>> import fastdc
        >>> recipe = fastdc.Recipe(pool="fresh:networks=fixed", iterations=3, matching_steps=1)
        >>> fastdc.condense("digits", ipc=1, method=recipe, model="convnet:width=8", batch_real=16).images.shape
        torch.Size([10, 1, 8, 8])
    """

    match: str = "gradients"
    """What is compared."""
    pool: str = "fresh"
    """Whose networks, and what they learn between two steps."""
    batches: str = "random"
    """Which real images."""
    augmentation: str = "none"
    """What is done to the images of both sides."""
    formation: str = "plain"
    """How what is stored becomes images."""
    model: str = "convnet"
    """The network to learn with."""
    iterations: int = 1000
    """Networks, one after another."""
    matching_steps: int | None = None
    """Steps with each of them; None: the number of Zhao et al. (ICLR 2021) for the images per class."""
    model_epochs: int | None = None
    """Epochs of training the network between two steps; None: their number for the images per class, where the pool trains."""
    init: str = "noise"
    """Images to start from: "noise", standard normal; or copies of real images, "real", random ones, or "kmeans", those nearest to the
    centres of the k-means of their class."""
    lr_images: float = 0.1
    """Learning rate of what is stored."""
    lr_images_each: float | None = None
    """In its place, where a method lets the rate grow with the images: `lr_images` is so much times the images per class."""
    optimizer: str = "sgd"
    """How what is stored moves against its gradient."""
    schedule: str = "constant"
    """How `lr_images` falls over the run: "constant", "linear" or "cosine", to zero."""
    lr_model: float = 0.01
    """Learning rate of the network."""
    batch_real: int = 256
    """Real images of each class in a step."""
    distance: str = "layerwise_cosine"
    """Of two gradients, or of two paths: a metric, perhaps with a choice of rows, as "l1:rows=convolutions"."""
    protocol: str = "dc"
    """By which its images are evaluated, unless another is asked for."""
