"""The tables of README.md and docs/ that hold measured figures, made from the result files in bench/results/.

    python bench/tables.py            writes each table between its marks, <!-- table: NAME --> and <!-- end -->
    python bench/tables.py --check    writes nothing; says which pages are out of date

A table is a function here that reads result files; below it stand the command and the machine that they name.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)
SHAPES = ("28x28 grey", "32x32 rgb")
MISSING = "\N{EN DASH}"
Row = dict[str, Any]

# Table 4 of the paper: CIFAR10, 720 networks.
PAPER_SEARCH = {
    "random": (76.2, -0.21),
    "herding": (76.2, -0.20),
    "dc": (84.5, 0.79),
    "early_stopping": (84.5, 0.42),
    "whole set": (85.9, None),
}

ESTIMATED = {"seconds": 1, "memory": 1 << 20, "disk": 1 << 10}  # with the size of a unit


# Results


def results(name: str) -> Row:
    """What a result file holds: command, date, machine and rows."""
    content: Row = json.loads((RESULTS / f"{name}.json").read_text())
    return content


def rows_of(name: str, /, **fields: Any) -> list[Row]:
    """The rows of a result file that have these values."""
    return [row for row in results(name)["rows"] if all(row.get(key) == value for key, value in fields.items())]


def row_of(name: str, /, **fields: Any) -> Row:
    """The one row that has these values."""
    (row,) = rows_of(name, **fields)
    return row


def on_the_card(stage: str) -> tuple[list[Row], str]:
    """The rows of a stage of bench/gpu.sh in the latest run with it that is kept, and where they are from."""
    for file in sorted(RESULTS.glob("*.jsonl"), reverse=True):
        rows = [row for row in map(json.loads, file.read_text().splitlines()) if row["stage"] == stage and row["what"] != "stage"]
        if rows:
            card = next(row for row in rows if "card" in row)
            commit = f"commit {card['commit']}, " if "commit" in card else ""
            from_there = f"{card['card']}, torch {card['torch']}, {commit}rows in `bench/results/{file.name}`"
            return rows, f"\n`bash bench/gpu.sh FOLDER {stage}`; {from_there}.\n"
    raise LookupError(f"no run of the stage {stage!r} is kept")


# Text


def number(value: float, digits: int = 3) -> str:
    """A figure with so many digits, without zeros at its end that nobody measured; from 100 on a whole number."""
    return f"{value:.0f}" if value >= 100 else f"{float(f'{value:.{digits}g}'):g}"


def percent(row: Row) -> str:
    """The mean accuracy, with its deviation where it is known; a cell of `fastdc table` may have been left out."""
    if "mean" not in row:
        return "left out"
    return f"{row['mean']:.1f}" + (f" +- {row['std']:.1f}" if "std" in row else "")


def slashes(values: Iterable[float]) -> str:
    """Several figures of one field."""
    return " / ".join(map(number, values))


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["|".join(f" {field} " if field else " " for field in line) for line in (head, *rows)]
    lines.insert(1, "|".join("---" for _ in head))
    return "".join(f"|{line}|\n" for line in lines)


def source(*names: str, commands: bool = True) -> str:
    """The commands that the figures come from, those of a machine and a day together, below a table."""
    by_place: dict[str, list[str]] = {}
    for content in map(results, names):
        by_place.setdefault(f"{machine_of(content)}; {date_of(content)}", []).append(f"`{content['command']}`{duration(content)}")
    sentences = ("; ".join([*dict.fromkeys(found if commands else []), place]) for place, found in by_place.items())
    return "\n" + ". ".join(sentences) + ".\n"


def date_of(content: Row) -> str:
    """When the command ran, where that is known."""
    return f"measured on {content['date']}" if content["date"] else "date not recorded"


def duration(content: Row) -> str:
    """How long the command took, where that was measured."""
    return f" ({content['seconds'] / 60:.0f} minutes)" if content.get("seconds", 0) >= 60 else ""


def as_time(seconds: float) -> str:
    """Seconds, or minutes where they are many."""
    return f"{seconds:.0f} s" if seconds < 300 else f"{seconds / 60:.0f} min"


def machine_of(content: Row) -> str:
    """The machine of a result file, in words."""
    machine = content["machine"]
    threads = [f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}"] if "threads" in machine else []
    versions = [f"{name} {machine[name]}" for name in ("torch", "fastdc", "commit") if machine.get(name)]
    return ", ".join([machine.get("card", machine["cpu"]), *threads, *versions])


# Accuracies


def fashion_mnist() -> str:
    setting = {
        "condense-seed-0": "width 32, 64 real images per class, 200 iterations, seed 0",
        "condense-seed-1": "the same, seed 1",
        "condense-seed-2": "the same, seed 2",
        "condense-default": "default width 128, 256 real images per class, 20 iterations",
        "condense-paper": "the paper's settings: the same with 1,000 iterations",
    }
    lines = []
    for name, what in setting.items():
        condensed, random = (row_of(name, subject=subject) for subject in ("condensed", "random"))
        found = [percent(row).replace(" +-", "% +-") for row in (condensed, random)]
        lines.append([what, *found, str(condensed["networks"]), as_time(results(name)["seconds"])])
    head = ["FashionMNIST, one image per class", "condensed", "random real images", "networks", "time in all"]
    return markdown(head, lines) + source(*setting, commands=False)


def auto() -> str:
    """What `auto` reaches within a budget, with how many images it trains as in the storage of how many; and what takes no time."""
    names = sorted(path.stem for path in RESULTS.glob("auto*.json"))
    head = ["images per class", "", "budget", "seconds of condensing", "trained on", "stored", "protocol", "accuracy"]
    rows = sorted((row for name in names for row in rows_of(name)), key=lambda row: (row["ipc"], row["seconds"]))
    lines = [
        [
            *(str(row["ipc"]), row["method"], row["budget"] or "", number(row["seconds"]), str(row["trains_as"]), str(row["stored"])),
            *(row["protocol"], f"{percent(row)} %"),
        ]
        for row in rows
    ]
    return markdown(head, lines) + source(*names)


def dc_beside_auto() -> str:
    slow, fast = row_of("dc-10-200"), row_of("time_to_accuracy", method="auto", ipc=10, budget="30s")
    lines = [[name, number(row["seconds"]), f"{percent(row)} %"] for name, row in (("dc", slow), ("auto", fast))]
    ratio = number(slow["seconds"] / fast["seconds"])
    return (
        markdown(["", "seconds of condensing", "accuracy"], lines)
        + f"\nRatio of the times: {ratio}.\n"
        + source("dc-10-200", "time_to_accuracy")
    )


def time_to_accuracy() -> str:
    """What each method reaches within each budget, and what takes no time of its own."""
    rows = sorted(rows_of("time_to_accuracy"), key=lambda row: (row["ipc"], -row["mean"]))
    lines = [
        [
            *(
                str(row["ipc"]),
                row["method"],
                row["budget"] or "",
                number(row["seconds"]),
                str(row["iterations"] or ""),
                str(row["trains_as"]),
            ),
            f"{percent(row)} %",
        ]
        for row in rows
    ]
    head = ["images per class", "", "budget", "seconds of condensing", "iterations", "trained on", "accuracy"]
    return markdown(head, lines) + source("time_to_accuracy")


def cells(name: str, corner: str) -> str:
    """A table of `fastdc table` as rows and columns, with the paper's figures in brackets."""
    found = rows_of(name)
    columns = list(dict.fromkeys(row["column"] for row in found))
    lines = []
    for first in dict.fromkeys(row["row"] for row in found):
        line = [row_of(name, row=first, column=column) for column in columns]
        lines.append([str(first), *(percent(row) + (f" ({row['paper_mean']})" if "paper_mean" in row else "") for row in line)])
    return markdown([corner, *columns], lines) + source(name)


def ablations() -> str:
    names = ["activation", "pooling", "norm", "width", "depth", "distance"]
    lines = []
    for name in names:
        same = [row for row in rows_of(f"table-{name}") if row["column"] in (row["row"], "ipc 1")]
        lines.append([name, ", ".join(f"{row['row']} {row['mean']:.1f}" for row in same)])
    return markdown(["ablation", "test accuracy, percent"], lines) + source(*(f"table-{name}" for name in names), commands=False)


def continual_split() -> str:
    averages = rows_of("continual-split", stage="all")
    stages = list(dict.fromkeys(row["after"] for row in averages))[-4:]  # of five: the first forgets nothing
    lines = []
    for memory, distillation in dict.fromkeys((row["memory"], row["distillation"]) for row in averages):
        line = [row_of("continual-split", memory=memory, distillation=distillation, after=stage, stage="all") for stage in stages]
        lines.append([memory, distillation, *map(percent, line), f"{line[-1]['forgotten']:.1f}"])
    head = ["memory", "distillation", *(f"after stage {number}" for number in range(2, 6)), "forgotten"]
    return markdown(head, lines) + source("continual-split")


def continual_auto() -> str:
    last = [row for row in rows_of("continual-auto") if row["after"] == "fashion-mnist"]
    lines = []
    for memory, distillation in dict.fromkeys((row["memory"], row["distillation"]) for row in last):
        line = {row["stage"]: row for row in last if (row["memory"], row["distillation"]) == (memory, distillation)}
        lines.append([memory, distillation, *(percent(line[stage]) for stage in ("all", "digits", "fashion-mnist"))])
    return markdown(["memory", "distillation", "average", "digits", "FashionMNIST"], lines) + source("continual-auto")


def search(name: str) -> str:
    found = rows_of(name)
    paper = [PAPER_SEARCH.get(row["proxy"], (None, None)) for row in found]
    lines = [
        [
            "best network, %",
            *(f"{row['best_accuracy']:.1f}" + (f" ({best})" if best else "") for row, (best, _) in zip(found, paper, strict=True)),
        ],
        [
            "rank correlation, top 10",
            *(f"{row['correlation_top']:.2f}" + (f" ({top:.2f})" if top else "") for row, (_, top) in zip(found, paper, strict=True)),
        ],
        ["rank correlation, all networks", *(f"{row['correlation_known']:.2f}" for row in found)],
        ["minutes of one thread, networks and making of the proxy", *(f"{row['minutes'] + row['minutes_making']:.1f}" for row in found)],
        ["images stored", *(f"{row['images']:,}" for row in found)],
    ]
    return markdown(["", *(row["proxy"].replace("_", " ") for row in found)], lines) + source(name)


def search_order() -> str:
    rows = rows_of("search-order")
    named = {
        "first_seed": "rank correlation with the whole set",
        "other_seed": "with the whole set, another seed",
        "of_both": "of these two",
    }
    lines = [[what, *(f"{row[key]:.2f}" if key in row else "" for row in rows)] for key, what in named.items()]
    lines.append(["networks with average pooling", *(str(row["average_pooling"]) for row in rows)])
    return markdown(["the first ten of", *(row["proxy"].replace("_", " ") for row in rows)], lines) + source("search-order")


def search_draws() -> str:
    rows = rows_of("search-draws")
    names = list(dict.fromkeys(row["proxy"] for row in rows))
    lines = []
    for key, what in {"top": "rank correlation, top 10", "all": "rank correlation, all networks"}.items():
        values = [[row[f"correlation_{key}"] for row in rows if row["proxy"] == name] for name in names]
        lines.append([what, *(f"{statistics.mean(some):.2f} ({min(some):.2f} to {max(some):.2f})" for some in values)])
    lines.append(["seeds", *(str(sum(row["proxy"] == name for row in rows)) for name in names)])
    return markdown(["mean (least to greatest) over seeds", *(name.replace("_", " ") for name in names)], lines) + source("search-draws")


# Speed and memory on the CPU


def native() -> str:
    lines: list[list[str]] = []

    def line(what: str, *groups: list[Row]) -> None:
        """Each group of rows in one field, the second, of RGB images, in brackets."""
        fields = [[slashes(row[key] for row in group) for group in groups] for key in ("reference", "native")]
        fields.append([" / ".join(f"{row['ratio']:.1f}" for row in group) for group in groups])
        lines.append([what, *(first + "".join(f" ({other})" for other in rest) for first, *rest in fields)])

    def by_shape(label: str, **fields: Any) -> None:
        line(label, *(rows_of("native", shape=shape, **fields) for shape in SHAPES))

    by_shape("class gradients, 256 real images per class", what="class gradients")
    side = "synthetic side (class gradients, distance, image gradients)"
    for label, what, more in ((side, "synthetic side", {}), ("whole matching step", "whole step", {"model": "convnet"})):
        for ipc in (1, 10, 50):
            by_shape(f"{label if ipc == 1 else 'the same'}, ipc {ipc}", what=what, ipc=ipc, **more)
    narrow = [row for row in rows_of("native", what="whole step", ipc=10) if ":" in row["model"]]
    line("the same, ipc 10, width " + " / ".join(row["model"].partition("=")[2] for row in narrow), narrow)
    others = [row for row in rows_of("native", what="whole step", ipc=1) if row["model"] != "convnet"]
    line("whole matching step, ipc 1, " + " / ".join(row["model"] for row in others), others)
    line("training, one epoch of 100 / 500 images", rows_of("native", what="training, one epoch, batch 256"))
    augmented = rows_of("native", what="training on 500 images with augmentation, one epoch, batch 256")
    line("the same, 500 images with augmentation as " + " / ".join(row["augmentation"] for row in augmented) + " has it", augmented)
    line("logits of 10,000 images", rows_of("native", what="logits of 10,000 images"))
    line("evaluation of 20 networks, 5 epochs, ipc 1 / 10", rows_of("native", what="evaluation of 20 networks, 5 epochs"))
    return markdown(["seconds", "reference", "native engine", "ratio"], lines) + source("native")


def native_beside() -> str:
    threads = rows_of("native", what="whole step by threads")
    compiled = row_of("native", what="class gradients beside torch:compile=true")
    ours, sgemm = (row_of("winograd", name=name)["two_threads"] for name in ("maps", "sgemm"))
    people = rows_of("native", what="whole step beside ConvNet")
    written = ", ".join(f"{row['ratio']:.2f} times as fast written as {row['written_as']}" for row in people)
    lines = [
        ["whole step, ipc 10, 1 / 2 threads", f"{slashes(row['seconds'] for row in threads)} s"],
        ["the same, beside `convnet`", written],
        ["class gradients", f"{compiled['ratio']:.1f} times as fast as those of `torch:compile=true`"],
        ["products of the convolutions, 2 threads", f"{ours:.0f} GFLOP/s; torch's sgemm {sgemm:.0f}"],
    ]
    return markdown(["native engine", "found"], lines) + source("native", "winograd")


def whole_calls() -> str:
    found = rows_of("whole_calls")

    def spread(row: Row) -> str:
        above = sorted({round(max(0, mib - row["idle_mib"])) for mib in row["each_mib"]})
        return " to ".join(map(str, above))

    lines = [["seconds", *(number(row["seconds"], 2) for row in found)], ["MiB", *map(spread, found)]]
    return markdown(["", *(f"`{row['name']}`" for row in found)], lines) + source("whole_calls")


def methods() -> str:
    steps = rows_of("methods", what="one step")
    names = list(dict.fromkeys(row["spec"] for row in steps))
    peaks = {
        name: [row["mib"] for row in rows_of("methods", what="peak memory of one step", spec=name) if row["ipc"] in (1, 10)]
        for name in names
    }
    lines = [
        ["ms", *(slashes(1000 * row["seconds"] for row in steps if row["spec"] == name) for name in names)],
        ["peak memory, MiB", *(slashes(peaks[name]) if len(peaks[name]) == 2 else "" for name in names)],
    ]
    return markdown(["ipc 1 / 10", *(f"`{name}`" for name in names)], lines) + source("methods")


def coresets() -> str:
    found = rows_of("coresets", what="choice of ten classes, features given")
    names = [name for name in dict.fromkeys(row["name"] for row in found) if name != "random"]
    lines = [[f"`{name}`", *(number(row["seconds"], 2) for row in found if row["name"] == name)] for name in names]
    whole = row_of("coresets", what="herding of 60,000 images by a network trained before")
    lines.append(["`herding`, its features as well, network trained before", "", number(whole["seconds"]), ""])
    return markdown(["seconds", "ipc 1", "ipc 10", "ipc 50"], lines) + source("coresets")


def distance() -> str:
    def ms(**fields: Any) -> str:
        return number(1000 * row_of("layerwise_distance", **fields)["seconds"])

    lines = []
    for classes in (10, 100):
        case = f"convnet-{classes}"
        public = [ms(what="distance and cotangent", case=case, backend=backend) for backend in ("plain", "reference", "cpp")]
        given = [ms(what="memory given", case=case, job=job) for job in ("cpp", "torch.add")]
        lines.append([f"ConvNet, {classes} classes", *public, *given])
    head = ["milliseconds", "plain autograd", "`reference`", "`cpp`", "`cpp`, memory given", "`torch.add`, memory given"]
    return markdown(head, lines) + source("layerwise_distance")


def estimates() -> str:
    """What is estimated and what a run then takes."""
    lines = []
    for row in rows_of("estimate"):
        pairs = [(row[f"estimated_{what}"] / unit, row[what] / unit) for what, unit in ESTIMATED.items()]
        lines.append(
            [row["name"], *(f"{number(said)} / {number(took)}" for said, took in pairs), f"{100 * (pairs[0][0] / pairs[0][1] - 1):+.0f}%"]
        )
    return markdown(["", "seconds", "memory, MiB", "disk, KiB", "seconds off by"], lines) + source("estimate")


def match_loss() -> str:
    what = "loss of a class, forward and backward"
    found = {row["name"]: row["seconds"] for row in rows_of("match_loss", what=what)}
    ratio = number(found["plain"] / found["match_loss"], 2)
    line = ["ConvNet, one class", *(number(1000 * found[name]) for name in ("plain", "match_loss")), ratio]
    return markdown([f"{what}, ms", "plain torch", "`match_loss`", "ratio"], [line]) + source("match_loss")


def memory() -> str:
    what = "peak memory of one matching step"
    found = {(row["name"], row["ipc"]): row["mib"] for row in rows_of("memory", what=what)}
    idle = rows_of("memory", what=what)[0]["idle_mib"]
    ipcs = (1, 50, 500)
    lines = [
        [name, *(f"{found[name, ipc]:.0f}" if (name, ipc) in found else "" for ipc in ipcs)] for name in ("native", "torch", "reference")
    ]
    head = [f"MiB, of which {idle:.0f} are the interpreter with its imports", *(f"ipc {ipc}" for ipc in ipcs)]
    return markdown(head, lines) + source("memory")


def architecture_search() -> str:
    found = rows_of("architecture_search", what="seconds per network")
    lines = [[row["name"], number(row["eager"]), number(row["search"]), number(row["ratio"], 2)] for row in found]
    return markdown(["seconds per network", "eager PyTorch", "fastdc", "ratio"], lines) + source("architecture_search")


# Several processes


def world_steps() -> str:
    rows = rows_of("world", what="iteration")
    lines = []
    for name in dict.fromkeys(row["name"] for row in rows):
        alone, shared = (row_of("world", what="iteration", name=name, processes=processes) for processes in (1, 2))
        ratio = number(shared["seconds"] / alone["seconds"], 2)
        lines.append([name, number(alone["seconds"]), number(shared["seconds"]), ratio, f"{shared['bytes']:,.0f}"])
    head = ["", "one process, two threads, s", "two processes, one thread each, s", "ratio", "bytes that reach each of two"]
    return markdown(head, lines) + source("world")


CARRIED = (1000, 10, 224, 64)  # classes, images per class, pixels of a side, processes


def world_cost() -> str:
    """Seconds of a matching step, measured and by the model, which knows the first two lines alone; the last line is the model's."""
    rows = rows_of("world", what="cost")
    one, ten = (row["seconds"] / row["classes"] / row["side"] ** 2 for row in rows[:2])  # of a class, for a pixel
    image = (ten - one) / (rows[1]["ipc"] - rows[0]["ipc"])

    def model(classes: int, ipc: int, side: int, processes: int) -> float:
        return classes / processes * side**2 * (one + (ipc - 1) * image)

    lines = []
    for row in rows:
        case = [row[name] for name in ("classes", "ipc", "side", "processes")]
        lines.append([*map(str, case), number(row["seconds"]), number(model(*case))])
    lines.append([*(f"{value:,}" for value in CARRIED), MISSING, number(model(*CARRIED))])
    head = ["classes", "images per class", "pixels of a side", "processes", "measured, s", "by the model, s"]
    return markdown(head, lines) + source("world")


def world_memory() -> str:
    alone, shared = (row_of("world_memory", what="memory", processes=processes) for processes in (1, 2))
    lines = [
        [what, *(slashes(row[key]) for row in (alone, shared)), f"{100 * max(shared[key]) / alone[key][0]:.0f}%"]
        for what, key in (("in the last seconds of a run", "held_mib"), ("at most", "peak_mib"))
    ]
    return markdown(["MiB", "one process", "each of two", "share"], lines) + source("world_memory")


# On a GPU


CARD_PRECISIONS = ("float32", "tf32", "bfloat16")
CARD_ARMS = {
    **{("plain", precision): "plain script" for precision in CARD_PRECISIONS},
    **{("cuda", precision): "`cuda`" for precision in CARD_PRECISIONS},
    ("torch", "float32"): "`torch`",
}


def gpu_step() -> str:
    """A column for each arm that was measured, a line for each job that was; an en dash for what is not there."""
    rows, from_there = on_the_card("engines")
    measured = {(row.get("arm"), row.get("precision")) for row in rows if "wall_ms" in row}
    arms = [arm for arm in CARD_ARMS if arm in measured]

    def line(label: str, what: str, key: str, by: str = "ipc", values: Sequence[int | None] = (1, 10, 50)) -> list[str]:
        found = {(row["arm"], row["precision"], row.get(by)): row[key] for row in rows if row["what"] == what and key in row}
        cells = [[found.get((*arm, value)) for value in values] for arm in arms]
        return [label, *(" / ".join(MISSING if each is None else number(each) for each in cell) for cell in cells)]

    ipcs = (1, 10, 50, 200)
    lines = [
        line("matching step, ipc 1 / 10 / 50 / 200, ms", "step", "wall_ms", values=ipcs),
        line("real side, ms", "real side", "wall_ms", values=(None,)),
        line("synthetic side, ipc 1 / 10 / 50, ms", "synthetic side", "wall_ms"),
        line("SGD step of 100 / 256 images, ms", "SGD step", "event_ms", "images", (100, 256)),
        line("whole iteration, ipc 1 / 10 / 50, s", "iteration", "seconds"),
        line("memory held for steps, ipc 1 / 10 / 50 / 200, MiB", "memory", "reserved_MiB", values=ipcs),
    ]
    head = [f"{CARD_ARMS[arm]}, {arm[1].replace('tf32', 'TF32')}" for arm in arms]
    return markdown(["", *head], [each for each in lines if any(map(str.isdigit, "".join(each[1:])))]) + from_there


def gpu_distance() -> str:
    of_stage, from_there = on_the_card("distance")
    rows = [row for row in of_stage if row["what"] == "distance" and "kernel_ms" in row]
    names = {"triton": "Triton", "cuda": "CUDA", "reference": "plain torch in closed form", "plain": "class by class with autograd"}
    lines = [[f"{classes} classes", *(number(row["kernel_ms"]) for row in rows if row["classes"] == classes)] for classes in (10, 100)]
    order = [names[row["arm"]] for row in rows if row["classes"] == 10]
    return markdown(["milliseconds of the GPU", *order], lines) + from_there


def gpu_fashion_mnist() -> str:
    rows, from_there = on_the_card("condensation")
    tested = {(row["subject"], row.get("precision")): row for row in rows if "accuracy_%" in row}
    lines = []
    for made in (row for row in rows if row["what"] == "condense" and "seconds" in row):
        precision, ipc = made.get("precision"), made["ipc"]
        both = [tested.get(key) for key in ((f"condensed {ipc}", precision), (f"random {ipc}", None))]
        accuracies = [f"{row['accuracy_%']:.1f}% +- {row['std_%']:.1f}" if row else MISSING for row in both]
        lines.append([str(ipc), precision or "float32", str(made["iterations"]), f"{made['seconds']:.1f}", *accuracies])
    return markdown(["images per class", "precision", "iterations", "seconds", "condensed", "random real images"], lines) + from_there


def precision(file: str, further: Iterable[Sequence[str]] = ()) -> str:
    """Errors of gradients by two activations, and accuracies over the seeds."""
    lines = []
    for name in dict.fromkeys(row["precision"] for row in rows_of(file, what="error")):
        swish, relu = (row_of(file, what="error", precision=name, activation=activation) for activation in ("swish", "relu"))
        errors = [f"{swish[key]:.0e} / {relu[key]:.0e}" for key in ("class_gradients", "distance", "image_gradients")]
        found = [row["mean"] for row in rows_of(file, what="accuracy", precision=name)]
        lines.append([f"`{name}`", *errors, f"{statistics.mean(found):.1f} ({', '.join(f'{value:.1f}' for value in found)})"])
    head = ["", "class gradients", "distances", "image gradients", "accuracy, % (by seed)"]
    return markdown(head, [*lines, *further]) + source(file)


def native_precision() -> str:
    """The same of the native engine, beside torch's autocast."""
    swish, relu = (row_of("native_precision", what="autocast", activation=each)["class_gradients"] for each in ("swish", "relu"))
    return precision("native_precision", [["torch's autocast to bfloat16", f"{swish:.0e} / {relu:.0e}", "", "", ""]])


def native_precision_times() -> str:
    """What rounding saves the native engine: milliseconds, and how many times as fast."""
    lines = []
    for name in dict.fromkeys(row["network"] for row in rows_of("native_precision", what="time")):
        found = [row_of("native_precision", what="time", network=name, ipc=ipc) for ipc in (None, 1, 10)]
        both = [(row["float32"], row["bfloat16"]) for row in found]
        lines.append([f"`{name}`", *(f"{slashes(1e3 * each for each in pair)} ({pair[0] / pair[1]:.1f})" for pair in both)])
    head = ["milliseconds, `float32` / `bfloat16` (ratio)", "class gradients", "synthetic side, ipc 1", "the same, ipc 10"]
    return markdown(head, lines) + source("native_precision")


def kernels() -> str:
    """What kernels occupy of cards, compiled ahead of time."""
    rows = rows_of("kernels")
    names, architectures = (list(dict.fromkeys(row[key] for row in rows)) for key in ("kernel", "architecture"))
    spilled = sum(row["stack"] + row["local"] for row in rows)

    def cell(name: str, architecture: str) -> str:
        row = row_of("kernels", kernel=name, architecture=architecture)
        return f"{row['registers']}, {row['shared']}, {100 * row['occupancy']:.0f}%"

    lines = [[name, *(cell(name, architecture) for architecture in architectures)] for name in names]
    return markdown(["kernel", *architectures], lines) + f"\nBytes spilled: {spilled}.\n" + source("kernels")


TABLES: dict[str, Callable[[], str]] = {
    "fashion-mnist": fashion_mnist,
    "auto": auto,
    "coresets": lambda: cells("table-coresets", "images per class"),
    "ablations": ablations,
    "cross-architecture": lambda: cells("table-cross-architecture", "condensed with"),
    "dd": lambda: cells("table-dd", "images per class"),
    "continual-split": continual_split,
    "continual-auto": continual_auto,
    "search-auto": lambda: search("search-auto"),
    "search-max": lambda: search("search-max"),
    "search-order": search_order,
    "search-draws": search_draws,
    "estimates": estimates,
    "native": native,
    "native-beside": native_beside,
    "whole-calls": whole_calls,
    "methods": methods,
    "given-features": coresets,
    "distance": distance,
    "match-loss": match_loss,
    "memory": memory,
    "search-time": architecture_search,
    "gpu-step": gpu_step,
    "gpu-distance": gpu_distance,
    "kernels": kernels,
    "precision": lambda: precision("precision"),
    "native-precision": native_precision,
    "native-precision-times": native_precision_times,
    "world-steps": world_steps,
    "world-memory": world_memory,
    "world-cost": world_cost,
    "dc-beside-auto": dc_beside_auto,
    "time-to-accuracy": time_to_accuracy,
    "gpu-fashion-mnist": gpu_fashion_mnist,
}


def refreshed(text: str) -> str:
    """A page with its tables made anew.

    Raises:
        KeyError: the page marks a table that is not in TABLES.
    """
    return MARKED.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], text)


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with --check say which are out of date."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    stale = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = page.read_text()
        if refreshed(text) != text:
            stale.append(page.relative_to(ROOT))
            if not arguments:
                page.write_text(refreshed(text))
    for name in stale:
        print(f"{name} {'is out of date: run python bench/tables.py' if arguments else 'written'}")
    return int(bool(stale and arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
