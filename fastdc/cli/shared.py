"""What several commands do: evaluate images, choose a baseline, read a condensed dataset."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdc._evaluate import AUTO, evaluate, protocol_for
from fastdc.condensed import CondensedDataset, own_file
from fastdc.coresets import SELECTIONS
from fastdc.data import ImageData, load_dataset
from fastdc.data.exchanged import AUTHORS_STATISTICS
from fastdc.data.sources.named import keep_classes
from fastdc.errors import UsageError, unknown_name
from fastdc.loop.events import Callback, Evaluated
from fastdc.models.paper import evaluation_model
from fastdc.options.ipc import of_each_class
from fastdc.parallel.world import apart
from fastdc.recipe import Recipe
from fastdc.training.evaluation import Evaluation
from fastdc.training.protocols import PROTOCOLS

_NO_RESULT = ("out", "quiet", "debug", "config", "workers")  # options
BASELINES = (*SELECTIONS, "none")


@dataclass(frozen=True)
class EvaluationOptions:
    """How images are evaluated: the arguments of `fastdc.evaluate`."""

    protocol: str
    model: str
    networks: int
    epochs: int | None
    seed: int
    precision: str
    engine: str
    device: str

    @classmethod
    def of(cls, command: Any) -> EvaluationOptions:
        """The options of a command that have these names; a model that has to be tested as another (`evaluation_model`) is exchanged.

        Raises:
            UsageError: an unknown protocol.
        """
        given = {field.name: getattr(command, field.name) for field in dataclasses.fields(cls)}
        given["model"] = given["model"] or "convnet"
        if given["protocol"] != AUTO:
            PROTOCOLS.options(given["protocol"])
        tested = evaluation_model(given["model"])
        if tested != given["model"]:
            print(f"tested with {tested} in the place of {given['model']}: a few images are too few to train a batch norm", flush=True)
        return cls(**given | {"model": tested})

    def for_set(self, condensed: CondensedDataset, test: ImageData) -> EvaluationOptions:
        """With the protocol in full, of a condensed set in the place of "auto", for what is compared with it, too."""
        protocol = protocol_for(condensed, self.protocol, test.name)
        if self.protocol == AUTO and protocol != Recipe.protocol:
            print(f"tested by protocol {protocol}, that of the recipe", flush=True)
        return dataclasses.replace(self, protocol=protocol)


def evaluate_all(
    subjects: Mapping[str, CondensedDataset], test: ImageData, options: EvaluationOptions, quiet: bool, callbacks: Sequence[Callback]
) -> dict[str, Evaluation]:
    """Evaluate every subject, print a line each, and tell the callbacks."""
    results = {}
    for subject, images in subjects.items():
        results[subject] = evaluate(images, test, **dataclasses.asdict(options), progress=not quiet)
        held = f", {len(images)} images in the storage of {len(images.stored)}" if len(images) != len(images.stored) else ""
        print(f"{subject:<10}  {results[subject]}{held}", flush=True)
        with apart():
            for callback in callbacks:
                callback(Evaluated(subject, results[subject]))
    return results


def as_json(evaluation: Evaluation, images: CondensedDataset) -> dict[str, Any]:
    """An evaluation as it stands in evaluation.json, with how many images were trained on, and how many lie in storage."""
    counts = {"images": len(images), "stored": len(images.stored)}
    return {**dataclasses.asdict(evaluation), "mean": evaluation.mean, "std": evaluation.std, **counts}


def json_text(content: Mapping[str, Any]) -> str:
    """JSON with a line for each value, but one for each list of numbers.

    >>> print(json_text({"counts": [[1, 2], [3, 4]]}), end="")
    {
      "counts": [
        [1, 2],
        [3, 4]
      ]
    }
    """
    text = json.dumps(content, indent=2)
    return re.sub(r"\[[^\[\]{}\"]*\]", lambda numbers: "[" + " ".join(numbers[0][1:-1].split()) + "]", text) + "\n"


def command_line(name: str, command: Any) -> str:
    """The command of this name with the options by which it differs from the usual ones, those aside that decide no result."""
    words, fields = ["fastdc", name], dataclasses.fields(command)
    # What stands by its place comes first: behind a flag of several values it would be one of them.
    for field in sorted(fields, key=lambda field: field.default is not dataclasses.MISSING):
        value = getattr(command, field.name)
        if field.default is dataclasses.MISSING:
            words.append(value)
        elif value != field.default and field.name not in _NO_RESULT:
            words += [f"--{field.name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,))]
    return shlex.join(words)


def check_baseline(name: str) -> None:
    """Raise a UsageError unless `name` is a coreset or "none"."""
    if name not in BASELINES:
        raise unknown_name("baseline", name, BASELINES)


def baseline_images(
    name: str, train: ImageData, ipc: int | tuple[int, ...], options: EvaluationOptions, quiet: bool
) -> dict[str, CondensedDataset]:
    """What to evaluate beside a condensed set; chosen before long work, so that it cannot fail after it."""
    if name == "none":
        return {}
    numbers = of_each_class(ipc, train.num_classes)
    if not all(numbers):
        raise UsageError("a class has no condensed image, and a baseline has images of each class; --baseline none goes without.")
    counts = train.class_counts.tolist()
    if all(count < number for count, number in zip(counts, numbers, strict=True)):
        raise UsageError(
            f"ipc is {max(numbers)}, but classes have {min(counts)} to {max(counts)} images to choose the baseline from; --baseline none "
            "goes without."
        )
    if any(count < number for count, number in zip(counts, numbers, strict=True)):
        ipc = tuple(map(min, numbers, counts))
        print(f"{name}: classes with fewer images than ipc give all that they have", flush=True)
    given = {"model": options.model, "seed": options.seed, "engine": options.engine, "device": options.device, "progress": not quiet}
    return {name: SELECTIONS[name](train, ipc, **options_taken(name, given))}


def options_taken(coreset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the given options that a coreset takes."""
    return {key: given[key] for key in inspect.signature(SELECTIONS[coreset]).parameters if key in given}


def folder_for(out: str | None, name: str) -> Path:
    """The folder that `out` names; None: one of this name in runs/."""
    return Path(out if out is not None else f"runs/{re.sub('[^0-9A-Za-z._-]+', '_', name)}").expanduser()


def load_like(condensed: CondensedDataset, name: str, root: str | None) -> tuple[ImageData, ImageData]:
    """A dataset with the image size of a condensed set, and of its classes those that this has, where it has some of them alone."""
    pair, kept = load_dataset(name, root, image_size=condensed.image_size), condensed.class_names
    return keep_classes(pair, kept) if len(kept) >= 2 and set(kept) < set(pair[0].class_names) else pair


def read_condensed(
    path: str, dataset: str | None, formation: str, root: str | None, *, needs_dataset: bool = True
) -> tuple[CondensedDataset, str]:
    """The condensed dataset at `path`, whoever wrote it, and the name of the dataset to test it on."""
    file = own_file(Path(path).expanduser())
    if file is None:
        if dataset is None:
            raise UsageError(f"{path} does not say how it is normalised; name the dataset that it was condensed from with --dataset.")
        train, _ = load_dataset(dataset, root)
        said: dict[str, Any] = {"class_names": train.class_names, "formation": formation}
        condensed = CondensedDataset.load(path, mean=train.mean, std=train.std, **said)
        if condensed.provenance.get("accs_all_exps") and dataset in AUTHORS_STATISTICS:  # `to_pt` writes none
            mean, std = AUTHORS_STATISTICS[dataset]
            print(f"read as normalised by the mean {mean} and std {std} of the authors' programs", flush=True)
            condensed = CondensedDataset.load(path, mean=mean, std=std, **said)
        return condensed, dataset
    condensed = CondensedDataset.load(file, formation=formation)
    name = dataset if dataset is not None else condensed.provenance.get("dataset")
    if needs_dataset and name in (None, "data"):
        raise UsageError(f"{file} was made from data without a name; name the dataset to test on with --dataset.")
    return condensed, str(name)
