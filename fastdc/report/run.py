"""The report of a condensation: what its folder holds, as plain values for a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastdc.recipe import CHOICES
from fastdc.report.charts import PLAIN, Chart, Series, chart, number, round_ticks
from fastdc.report.confusion import Confusion, confusion
from fastdc.report.loaded import Frame, Loaded, load_run
from fastdc.report.pictures import Gallery, gallery
from fastdc.report.repeat import command, python_call
from fastdc.report.values import Bar, Bars, Row, duration, mean_and_deviation, said, settings, size
from fastdc.runs.content import in_a_line
from fastdc.training.evaluation import Evaluation

_NUMBERS = (
    "iterations",
    "matching_steps",
    "model_epochs",
    "init",
    "lr_images",
    "optimizer",
    "schedule",
    "lr_model",
    "batch_real",
    "distance",
)
SETTINGS = ("method", "scale", "budget", *_NUMBERS, "model", "engine", "precision", "device", "seed")


@dataclass(frozen=True)
class RunReport:
    """All that the page of a run shows; a part that the folder does not hold is None or empty."""

    title: str
    summary: str
    figures: tuple[Row, ...]
    gallery: Gallery | None
    frames: tuple[Frame, ...]
    loss: Chart | None
    accuracies: Bars | None
    curve: Chart | None
    tested: str
    """How accuracies were taken, in words."""
    confusion: Confusion | None
    choices: tuple[Row, ...]
    settings: tuple[Row, ...]
    origin: tuple[Row, ...]
    command: str
    python: str
    cost: tuple[Row, ...]
    notes: tuple[str, ...]


def run_report(path: Path) -> RunReport:
    """The report of the run in a folder."""
    run = load_run(path)
    config, condensed, notes = run.config, run.condensed, list(run.notes)
    repeated = _repeated(run, notes)
    return RunReport(
        title=run.title,
        summary=_summary(run),
        figures=figures(run),
        gallery=gallery(condensed) if condensed is not None else None,
        frames=run.frames,
        loss=loss_chart([run]),
        accuracies=accuracy_bars([(name, found, _stored(run, name), _color(name)) for name, found in run.results.items()]),
        curve=_curve_chart(run),
        tested=_tested(run),
        confusion=_confusion(run),
        choices=settings(config, tuple(CHOICES)),
        settings=settings(config, SETTINGS),
        origin=_origin(run),
        command=repeated[0],
        python=repeated[1],
        cost=_cost(run),
        notes=tuple(notes),
    )


def figures(run: Loaded) -> tuple[Row, ...]:
    """The few figures that stand at the top."""
    rows, ours = [], run.results.get("condensed")
    if ours is not None:
        rows.append(Row("test accuracy", f"{100 * ours.mean:.1f} %"))
        others = {name: found for name, found in run.results.items() if found is not ours}
        rows += [Row(f"beside {name}", f"{100 * (ours.mean - found.mean):+.1f} points") for name, found in others.items()]
    if run.losses:
        rows.append(Row("to learn the images", duration(run.seconds)))
    if run.condensed is not None:
        rows.append(Row("to store them", size(run.condensed.storage_bytes)))
    return tuple(rows)


def loss_chart(runs: Sequence[Loaded]) -> Chart | None:
    """The loss of each run over its iterations; None where none has a loss."""
    known = [(place, run) for place, run in enumerate(runs) if run.losses]
    if not known:
        return None
    names = [run.name if len(runs) > 1 else "the loss" for _, run in known]
    series = [Series(name, run.losses, marked=False, color=place) for name, (place, run) in zip(names, known, strict=True)]
    ends = [f"{name} goes from {run.losses[0][1]:.4g} to {run.losses[-1][1]:.4g}" for name, (_, run) in zip(names, known, strict=True)]
    return chart("Loss", "iteration", series, f"Line chart of the loss over the iterations: {'; '.join(ends)}.")


def _curve_chart(run: Loaded) -> Chart | None:
    """The accuracy of the images over the iterations; None where they were tested at the end alone."""
    if not run.curve:
        return None
    ways = dict.fromkeys(_way(found) for _, found in run.curve)  # taken in different ones accuracies do not compare
    differing = [place for place, said_of_it in enumerate(zip(*ways, strict=True)) if len(set(said_of_it)) > 1]
    lines, texts = [], []
    for color, way in enumerate(ways):
        name = ", ".join(way[place] for place in differing)
        of_it = [(iteration, found) for iteration, found in run.curve if _way(found) == way]
        points = tuple((iteration, 100 * found.mean) for iteration, found in of_it)
        lines.append(Series(name or "condensed", points, tuple(100 * found.std for _, found in of_it), color=color))
        texts.append(f"{name} from {points[0][1]:.1f} to {points[-1][1]:.1f}".strip())
    text = f"Line chart of the test accuracy in percent over the iterations: {'; '.join(texts)}."
    return chart("Test accuracy over the iterations, %", "iteration", lines, text)


def _way(found: Evaluation) -> tuple[str, ...]:
    """How accuracies were taken, in words, one for each of what decides whether they compare."""
    networks = len(found.accuracies)
    return (
        f"protocol {said(found.protocol)}" if found.protocol is not None else "unknown protocol",
        f"{found.epochs} epoch{'s' if found.epochs != 1 else ''}" if found.epochs is not None else "unknown epochs",
        said(found.precision),
        f"{networks} network{'s' if networks > 1 else ''}",
    )


def accuracy_bars(results: Sequence[tuple[str, Evaluation, str, int]]) -> Bars | None:
    """Accuracies: of each a name, what was found, a note and a colour; None where there are none."""
    if not results:
        return None
    ticks = round_ticks(0.0, max(100 * (found.mean + found.std) for _, found, *_ in results) or 1.0)

    def place(accuracy: float) -> float:
        return round(max(0.0, min(100.0, 100 * (100 * accuracy / ticks[-1]))), 2)

    bars = []
    for name, found, note, color in results:
        mean, std = found.mean, found.std
        value = mean_and_deviation(100 * mean, 100 * std)
        dots = tuple(map(place, found.accuracies))
        bars.append(Bar(name.replace("_", " "), place(mean), place(mean - std), place(mean + std), dots, value, note, color))
    return Bars("Test accuracy, %", tuple(bars), tuple(map(number, ticks)))


def _summary(run: Loaded) -> str:
    config, condensed = run.config, run.condensed
    if not config:
        return ""
    what = (
        f"{len(condensed):,} images of {condensed.num_classes:,} classes, learned" if condensed is not None else "Images that are learned"
    )
    done = f"{int(run.losses[-1][0]) if run.losses else 0:,} of {config['iterations']:,} iterations"
    return f"{what} by the method {said(config['method'])} with the network {said(config['model'])}: {done}."


def _color(name: str) -> int:
    return 0 if name == "condensed" else PLAIN


def _stored(run: Loaded, name: str) -> str:
    entry = run.evaluation["results"][name]
    images, stored = entry.get("images"), entry.get("stored")
    held = f" in the storage of {stored}" if stored != images else ""
    return f"{images} images{held}" if images is not None else ""


def _tested(run: Loaded) -> str:
    if not run.results:
        return ""
    first = next(iter(run.results.values()))
    count = f"{len(first.accuracies)} network{'s' if len(first.accuracies) > 1 else ''}"
    how = f"{said(run.evaluation['model'])}, trained from scratch on these images alone by protocol {said(run.evaluation['protocol'])}"
    epochs = f" for {first.epochs} epochs" if first.epochs is not None else ""
    return (
        f"Accuracy on test images of {count} {how}{epochs}. A bar is the mean, its line a standard deviation either way, a dot one network."
    )


def _confusion(run: Loaded) -> Confusion | None:
    found = run.results.get("condensed")
    if found is None or found.confusion is None:
        return None
    known = run.condensed.class_names if run.condensed is not None else ()
    names = known if len(known) == len(found.confusion) else tuple(map(str, range(len(found.confusion))))
    return confusion(found.confusion, names)


def _origin(run: Loaded) -> tuple[Row, ...]:
    rows = list(settings(run.origin, ("fastdc", "torch", "fingerprint")))
    if run.condensed is not None:
        provenance = run.condensed.provenance
        rows += [Row("data, changed on the way in", said(change)) for change in provenance.get("changes", ())]
        rows += [Row("protocol of the recipe", said(provenance["protocol"]))] if "protocol" in provenance else []
    if run.results:
        rows += [Row(f"evaluation, {name}", said(run.evaluation[name])) for name in ("protocol", "networks", "seed")]
    return tuple(rows)


def _repeated(run: Loaded, notes: list[str]) -> tuple[str, str]:
    """The command and the Python that repeat a run; nothing, and a note, where its options are those of another version."""
    if not run.config:
        return "", ""
    try:
        return command(run.config, run.evaluation, run.condensed), python_call(run.config, run.condensed)
    except (KeyError, TypeError, ValueError) as error:
        notes.append(f"How the run is repeated cannot be said, as its options are not those of this version: {in_a_line(error)}")
        return "", ""


def _cost(run: Loaded) -> tuple[Row, ...]:
    rows = []
    if run.losses:
        rows.append(Row("all iterations", duration(run.seconds)))
        rows.append(Row("one iteration", f"{run.seconds / len(run.losses):.3g} s"))
    if run.memory:
        rows.append(Row("memory, the most at once", size(run.memory)))
    if run.condensed is not None:
        rows.append(Row("storage of the images, as float32", size(run.condensed.storage_bytes)))
    return (*rows, *settings({"hardware, when it began": run.origin.get("hardware")}, ("hardware, when it began",)))
