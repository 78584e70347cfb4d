"""What continual learning comes to: accuracies after each stage, their average, and how much was forgotten."""

from __future__ import annotations

from dataclasses import dataclass

from fastdc.training.evaluation import Evaluation


@dataclass(frozen=True)
class ContinualResult:
    """What one kind of memory comes to, over several seeds.

    Example:
        >>> result = ContinualResult("dc", True, ("digits", "letters"), (((0.9,), (0.7, 0.8)), ((0.9,), (0.8, 0.8))), 200, 51200)
        >>> print(result.average(1))
        77.5% +- 2.5 (2 networks)
        >>> round(result.forgetting(1).mean, 3)
        0.15
    """

    memory: str
    """A coreset, or a method's spec."""
    distill: bool
    """Whether outputs were kept by distillation, and the network tuned on balanced images."""
    stages: tuple[str, ...]
    """Their names."""
    accuracies: tuple[tuple[tuple[float, ...], ...], ...]
    """Of each seed, after each stage, on the test set of each stage so far: fractions of 1."""
    images: int
    """In the memories of the stages before the last."""
    storage: int
    """What these take, in bytes: chosen images as uint8, learned ones as float32."""

    def average(self, after: int) -> Evaluation:
        """The mean accuracy over the stages so far, for each seed.

        Args:
            after: the stage that was learned last, from 0.
        """
        return Evaluation(tuple(sum(seed[after]) / len(seed[after]) for seed in self.accuracies))

    def on_stage(self, after: int, stage: int) -> Evaluation:
        """The accuracy on the test set of one stage, for each seed, after the stage `after`."""
        return Evaluation(tuple(seed[after][stage] for seed in self.accuracies))

    def forgetting(self, after: int) -> Evaluation:
        """For each seed, how much lower the accuracy is than it was at its best, mean over the stages before `after`, from 1.

        (Chaudhry et al., "Riemannian Walk for Incremental Learning", ECCV 2018.)
        """
        losses = []
        for seed in self.accuracies:
            lost = [max(seed[then][stage] for then in range(stage, after)) - seed[after][stage] for stage in range(after)]
            losses.append(sum(lost) / len(lost))
        return Evaluation(tuple(losses))
