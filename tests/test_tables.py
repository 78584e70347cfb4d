"""The paper's tables: their definitions, a table from end to end, and what happens where it is stopped, shared or refused."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import io
import json
import re
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from helpers import leave_unwritten, needs_signals
from PIL import Image

import fastdc
from fastdc import Evaluation
from fastdc.cli import main
from fastdc.condensed import CondensedDataset
from fastdc.data import load_dataset
from fastdc.errors import DataError, RunError, UsageError
from fastdc.experiments import image_sets
from fastdc.experiments.tables import SCALES, TABLES, FilledTable, TableConfig, job, make_table
from fastdc.experiments.tables.cells import WHOLE_SET, Cell, Definition, ImageSet
from fastdc.experiments.tables.definitions import Setting
from fastdc.experiments.tables.job import Skipped, jobs_of
from fastdc.experiments.tables.paper import paper_figures
from fastdc.loop.config import CondenseConfig, resolved
from fastdc.metrics import METRICS
from fastdc.models.paper import PAPER_NETWORKS
from fastdc.parallel import jobs as shared_jobs

needs_matplotlib = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
pytestmark = pytest.mark.usefixtures("one_thread")
SOURCES = ["random", "herding", "k_center", "forgetting", "dc"]


@pytest.fixture
def config(tmp_path: Path) -> TableConfig:
    return TableConfig(
        table="coresets", dataset="digits", out=tmp_path / "table", scale=SCALES["tiny"], ipc=(1,), columns=tuple(SOURCES), progress=False
    )


class Counted:
    """Stands for what computes: notes who was called for what, and gives random images and made-up accuracies at once."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: Counter[tuple[str, ...]] = Counter()
        self.fail_at: dict[tuple[str, ...], BaseException] = {}
        self.numbers: dict[str, tuple[int | None, int | None]] = {}  # of each method: iterations, real images in a step
        self.rates: dict[str, float | None] = {}  # of the images, by the model
        self._counting = threading.Lock()
        patch.setattr(image_sets, "condense", self.condense)
        patch.setattr(job, "evaluate", self.evaluate)
        patch.setattr(job, "train_on_whole_set", self.train)
        patch.setattr(job.TableRunner, "_accuracy", lambda *_: 0.9)
        self._random = fastdc.coresets.random
        for name in SOURCES[:-1]:
            patch.setitem(image_sets.SELECTIONS, name, self._selection(name))

    def note(self, *call: str) -> None:
        with self._counting:
            self.calls[call] += 1
        if call in self.fail_at:
            raise self.fail_at[call]

    def condense(
        self, data: Any, ipc: int, *, model: str, method: str, distance: str, out: Path, seed: int, **how: Any
    ) -> CondensedDataset:
        self.note(method, model, str(ipc), distance)
        self.rates[model] = how["lr_images"]
        chosen = {name: how[name] for name in ("scale", "iterations", "batch_real")}
        full = resolved(CondenseConfig(ipc=ipc, method=method, **chosen))
        self.numbers[method] = (full.iterations, full.batch_real)
        images = self._random(data, ipc, seed=seed)
        images.save_grid(out / "condensed.png")
        return images

    def evaluate(self, images: CondensedDataset, test: Any, *, model: str, networks: int, seed: int, **_: Any) -> Evaluation:
        self.note("evaluate", model, str(images.ipc))
        return Evaluation((0.5 + 0.01 * images.ipc,) * networks)

    def train(self, data: Any, options: Any) -> Any:
        self.note(WHOLE_SET, options.model)
        return object.__new__(job.TrainedNetwork)

    def _selection(self, name: str) -> Any:
        def select(data: Any, ipc: int, *, seed: int = 0) -> CondensedDataset:
            self.note(name, str(ipc))
            return self._random(data, ipc, seed=seed)

        return select


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    monkeypatch.setattr(image_sets, "SELECTIONS", dict(image_sets.SELECTIONS))
    return Counted(monkeypatch)


# definitions


def defined(table: str, *ipcs: int, channels: int = 1) -> Definition:
    kind = TABLES[table]
    return kind.define(Setting("convnet:width=8", channels, ipcs or kind.ipcs, kind.columns, "laptop"))


def test_coresets_are_the_columns_of_table_1() -> None:
    table = defined("coresets")
    assert table.rows == ("1", "10", "50")
    assert table.columns == ("Random", "Herding", "K-Center", "Forgetting", "untrained", "DC", "whole set")
    assert [cell.image_set.source for cell in table.cells] == [*SOURCES[:-1], "untrained", "dc", WHOLE_SET] * 3
    assert [cell.image_set.ipc for cell in table.cells] == [1] * 6 + [0] + [10] * 6 + [0] + [50] * 6 + [0]
    assert len(jobs_of(table, range(2))) == 2 * (18 + 1)  # the whole set once for all rows


@pytest.mark.parametrize(("channels", "model"), [(1, "lenet"), (3, "alexcifarnet")])
def test_dd_takes_the_network_that_fits_the_channels(channels: int, model: str) -> None:
    table = defined("dd", channels=channels)
    assert (table.rows, table.columns) == (("1", "10"), ("DD", "DC"))
    assert {(cell.image_set.model, cell.model) for cell in table.cells} == {(model, model)}
    assert [cell.image_set.source for cell in table.cells] == ["dd", "dc"] * 2


def test_cross_architecture_condenses_once_for_each_row() -> None:
    table = defined("cross-architecture")
    names = tuple(network.name for network in PAPER_NETWORKS)
    assert table.rows == table.columns == names
    jobs = jobs_of(table, [0])
    assert len(jobs) == 6
    assert all(len(each.models) == 6 for each in jobs)
    assert "convnet:width=8" in jobs[0].models
    assert "convnet:width=8" in {each.image_set.model for each in jobs}
    vgg = next(cell for cell in table.cells if (cell.row, cell.column) == ("VGG", "VGG"))
    assert (vgg.image_set.model, vgg.model) == ("vgg11:norm=batch", "vgg11")


def test_cross_architecture_learns_with_an_mlp_at_a_rate_of_its_own_as_published(config: TableConfig, counted: Counted) -> None:
    """The authors' README, Table 2: 0.01 for MLP, the method's own for the others."""
    asked = dataclasses.replace(config, table="cross-architecture", columns=None)
    make_table(asked)
    assert {*counted.rates.values()} == {None}  # in fewer iterations little would be learned so
    make_table(dataclasses.replace(asked, out=config.out / "paper", scale=dataclasses.replace(config.scale, recipes="paper")))
    assert len(counted.rates) == 5  # LeNet cannot take images of 8x8
    assert {model: rate for model, rate in counted.rates.items() if rate is not None} == {"mlp": 0.01}
    assert (config.out / "paper" / "cells" / "dc-mlp-ipc1-lr0.01-seed0").is_dir()


def test_a_changed_dataset_is_said_and_has_no_figures_of_the_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = fastdc.load_dataset("digits")
    named = tuple(dataclasses.replace(half, name="fashion-mnist") for half in digits)
    changed = tuple(dataclasses.replace(half, changes=("only the classes 1, 2",)) for half in named)
    pages = []
    for number, pair in enumerate((named, changed)):
        monkeypatch.setattr("fastdc.experiments.tables.make.load_dataset", lambda *_, pair=pair, **__: pair)
        flags = "--ipc 1 --columns random --scale tiny --sets 1 --networks 1 --epochs 1 --whole-set-epochs 1 --model convnet:width=4"
        assert main(["table", "coresets", *flags.split(), "--out", str(tmp_path / str(number))]) == 0
        pages.append((tmp_path / str(number) / "table.md").read_text())
    assert "(paper 51.4" in pages[0]
    assert "(paper" not in pages[1]
    assert "fashion-mnist (only the classes 1, 2), scale tiny" in pages[1]


def test_rows_of_other_ipcs_are_told_from_the_paper_s() -> None:
    assert defined("cross-architecture", 1, 10).rows[::6] == ("MLP", "MLP, ipc 10")


@pytest.mark.parametrize(
    ("table", "values"),
    [
        ("activation", ("sigmoid", "relu", "leaky_relu")),
        ("pooling", ("none", "max", "avg")),
        ("norm", ("none", "batch", "layer", "instance", "group")),
        ("width", ("32", "64", "128", "256")),
        ("depth", ("1", "2", "3", "4")),
    ],
)
def test_an_ablation_varies_one_option_of_rows_and_columns(table: str, values: tuple[str, ...]) -> None:
    made = defined(table)
    assert made.rows == made.columns == values
    for cell in made.cells:
        for value, model in ((cell.row, cell.image_set.model), (cell.column, cell.model)):
            assert f"{table}={value}" in model
            assert (table == "width") == ("width=8" not in model)
            assert fastdc.models.build(model, 1, 10, (28, 28)) is not None


def test_distance_varies_the_distance() -> None:
    table = defined("distance", 1, 2)
    assert table.rows == tuple(METRICS)
    assert table.columns == ("ipc 1", "ipc 2")
    assert {(cell.row, cell.column) for cell in table.cells} == {
        (cell.image_set.distance, f"ipc {cell.image_set.ipc}") for cell in table.cells
    }


def test_no_two_image_sets_of_a_table_share_a_folder() -> None:
    for table in TABLES:
        jobs = jobs_of(defined(table, 1, 2), range(2))
        assert len({each.name for each in jobs}) == len(jobs)


def test_methods_that_differ_in_a_character_have_folders_of_their_own(config: TableConfig, counted: Counted) -> None:
    columns = ("idc:augmentation=crop+scale", "idc:augmentation=crop/scale", "idc: augmentation=crop+scale")
    make_table(dataclasses.replace(config, columns=columns))
    assert [counted.calls[column, "convnet:width=8", "1", None] for column in columns] == [1, 1, 1]
    folders = {path.parent.name for path in config.out.glob("cells/*/evaluation-*.json")}
    assert len(folders) == 4  # that of the whole set, too
    assert "idc_augmentation=crop_scale-convnet_width=8-ipc1-seed0" in folders  # as an earlier version called it


def test_the_paper_scale_is_the_paper_s() -> None:
    paper = SCALES["paper"]
    assert (paper.sets, paper.networks, paper.epochs, paper.width) == (5, 20, None, None)
    settled = image_sets.with_common_numbers(paper, ["random", "dc", "dd", WHOLE_SET], paper.recipes)
    assert (settled.iterations, settled.batch_real) == (1000, 256)


@pytest.mark.parametrize(
    ("columns", "given", "numbers", "record", "caption"),
    [
        ("dc untrained dsa", {}, {"dc": (1000, 256), "dsa": (1000, 256)}, (1000, 256), "1000 iterations, 256 real images per class"),
        ("dc dm", {}, {"dc": (1000, 256), "dm": (20000, 256)}, (None, 256), "each recipe's iterations, 256 real images per class"),
        (
            "dc idc ncfm",
            {},
            {"dc": (1000, 256), "idc": (2000, 64), "ncfm": (20000, 1024)},
            (None, None),
            "each recipe's number of real images",
        ),
        (
            "dc dm idc",
            {"iterations": 7, "batch_real": 8},
            {"dc": (7, 8), "dm": (7, 8), "idc": (7, 8)},
            (7, 8),
            "7 iterations, 8 real images",
        ),
    ],
    ids=["the paper's", "other iterations", "other numbers", "given"],
)
def test_at_the_scale_of_the_paper_a_method_has_the_numbers_of_its_recipe(
    columns: str,
    given: dict[str, int],
    numbers: dict[str, tuple[int, int]],
    record: tuple[int | None, int | None],
    caption: str,
    config: TableConfig,
    counted: Counted,
) -> None:
    scale = dataclasses.replace(SCALES["paper"], sets=1, **given)
    make_table(dataclasses.replace(config, scale=scale, columns=tuple(columns.split())))
    assert {method: counted.numbers[method] for method in numbers} == numbers
    content = json.loads((config.out / "config.json").read_text())["config"]
    assert (content["iterations"], content["batch_real"]) == record
    assert caption in (config.out / "table.md").read_text()


def test_the_paper_s_figures_stand_in_cells_of_their_tables() -> None:
    for table, datasets in (("coresets", 4), ("dd", 2), ("cross-architecture", 1)):
        kinds = {name: paper_figures(table, name) for name in ("mnist", "fashion-mnist", "svhn", "cifar10")}
        assert sum(bool(figures) for figures in kinds.values()) == datasets
        for figures in filter(None, kinds.values()):
            cells = {(cell.row, cell.column) for cell in defined(table).cells}
            assert {(row, column) for row, columns in figures.items() for column in columns} <= cells
    assert paper_figures("cross-architecture", "mnist")["ResNet"]["VGG"] == (83.4,)
    assert paper_figures("norm", "mnist") == {}


# from end to end


def test_coresets_from_end_to_end_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["table", "coresets", "--scale", "tiny", "--ipc", "1", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("]")[0] for line in lines[:7]] == [f"[{i}/7" for i in range(1, 8)]
    assert lines[-1] == f"written to {tmp_path / 'out'}"
    assert {"cells", "networks", "config.json", "table.md", "table.csv", "report.html"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    folder = tmp_path / "out" / "cells" / "dc-convnet_width=8-ipc1-seed0"
    condensed = fastdc.condense("digits", 1, model="convnet:width=8", iterations=2, batch_real=8)
    assert torch.equal(CondensedDataset.load(folder / "condensed.safetensors").images, condensed.images)
    result = fastdc.evaluate(condensed, "digits", model="convnet:width=8", networks=2, epochs=2)
    assert tuple(json.loads((folder / "evaluation-convnet_width=8.json").read_text())["accuracies"]) == result.accuracies
    assert len(list((tmp_path / "out" / "networks").glob("*.safetensors"))) == 1  # one training for four cells
    page = (tmp_path / "out" / "table.md").read_text()
    assert "untrained with 1 per class trains as 20 images in the storage of 10 (frequency:images=2,clamp=true)." in page
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob("table.*")}
    again = Counted(monkeypatch)
    assert main(command) == 0
    assert not again.calls
    assert {path: path.read_bytes() for path in before} == before
    assert "[" not in capsys.readouterr().out.split("|")[0]


def test_the_whole_set_s_accuracy_is_that_of_its_network(tmp_path: Path) -> None:
    train, test = load_dataset("digits")
    runner = job.TableRunner(
        tmp_path, train, test, dataclasses.replace(SCALES["tiny"], whole_set_epochs=2), "dc", None, "auto", "cpu", False
    )
    one = job.Job(ImageSet(WHOLE_SET, "mlp:width=16", 0), 0, ("mlp:width=16",))
    runner.path(one).mkdir(parents=True)
    runner.do(one, lambda *_: None)
    options = job.WholeSetOptions(model="mlp:width=16", epochs=2, cache=tmp_path / "networks", device="cpu")
    network = job.train_on_whole_set(train, options).module
    expected = (network(test.normalised(slice(None))).argmax(1) == test.labels).double().mean().item()
    assert runner.outcome(one, "mlp:width=16") == Evaluation((expected,))


# what is done is not done again, and nothing twice


def test_a_table_made_again_calls_nothing(config: TableConfig, counted: Counted) -> None:
    make_table(config)
    assert set(counted.calls.values()) == {1, 5}  # every image set once; five of them are tested with the same network
    assert counted.calls["evaluate", "convnet:width=8", "1"] == 5
    counted.calls.clear()
    table = make_table(config)
    assert not counted.calls
    assert all(isinstance(outcome, Evaluation) for outcome in table.outcomes.values())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError()], ids=lambda error: type(error).__name__)
def test_a_table_that_was_killed_goes_on(config: TableConfig, counted: Counted, error: BaseException) -> None:
    counted.fail_at = {("k_center", "1"): error}
    with pytest.raises(type(error)):
        make_table(config)
    assert not (config.out / "table.md").exists()
    assert counted.calls["dc", "convnet:width=8", "1", "layerwise_cosine"] == 0
    counted.fail_at = {}
    make_table(config)
    assert counted.calls["random", "1"] == counted.calls["herding", "1"] == 1
    assert counted.calls["k_center", "1"] == 2
    assert counted.calls["evaluate", "convnet:width=8", "1"] == 5
    assert (config.out / "table.md").exists()


def test_a_failed_cell_leaves_the_others_and_is_tried_again(
    config: TableConfig, counted: Counted, capsys: pytest.CaptureFixture[str]
) -> None:
    counted.fail_at = {("herding", "1"): RunError("a weight is not finite.")}
    with pytest.raises(RunError, match=r"1 of 6 image sets failed, herding-.*not finite\. The same call or command tries them again"):
        make_table(config)
    assert re.search(r"^herding-\S* failed: a weight is not finite\.$", capsys.readouterr().out, re.MULTILINE)  # when it fails
    assert "1. failed: a weight is not finite." in (config.out / "table.md").read_text()
    counted.fail_at = {}
    make_table(config)
    assert "failed" not in (config.out / "table.md").read_text()
    assert counted.calls["herding", "1"] == 2
    assert counted.calls["random", "1"] == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0"),
            "the memory of the GPU ran out when 2.00 GiB more",
        ),
        (MemoryError(), "memory ran out. Take a smaller model"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8000 bytes."), "ran out when 8000 bytes more"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_cell_for_which_memory_runs_out_leaves_the_others(config: TableConfig, counted: Counted, error: Exception, expected: str) -> None:
    counted.fail_at = {("herding", "1"): error}
    with pytest.raises(RunError, match=f"1 of 6 image sets failed, herding-.*{expected}.* batch_real"):
        make_table(config)
    assert expected in (config.out / "table.md").read_text()
    assert counted.calls["k_center", "1"] == 1


@needs_signals
def test_what_a_killed_process_was_writing_is_removed(config: TableConfig) -> None:
    cell = config.out / "cells" / "herding-convnet_width=8-ipc1-seed0"
    alive = leave_unwritten(config.out, cell, config.out / "networks")
    make_table(dataclasses.replace(config, columns=("herding",)))
    assert sorted(config.out.rglob("*.tmp")) == sorted(alive)


def test_threads_on_one_folder_do_each_cell_once(config: TableConfig, counted: Counted) -> None:
    config = dataclasses.replace(config, scale=dataclasses.replace(SCALES["tiny"], sets=3))
    errors: list[BaseException] = []

    def run() -> None:
        try:
            make_table(config)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert all(counted.calls[source, "1"] == 3 for source in SOURCES[:-1])
    assert counted.calls["dc", "convnet:width=8", "1", None] == counted.calls[WHOLE_SET, "convnet:width=8"] == 3
    assert counted.calls["evaluate", "convnet:width=8", "1"] == 15


def test_a_locked_cell_is_left_until_its_process_ends(config: TableConfig, counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = config.out / "cells" / "random-convnet_width=8-ipc1-seed0"
    folder.mkdir(parents=True)
    other = FileLock(folder / ".claim", thread_local=False)
    other.acquire()

    def sleep(seconds: float) -> None:
        assert counted.calls["random", "1"] == 0
        assert counted.calls["herding", "1"] == 1
        other.release()

    monkeypatch.setattr(shared_jobs.time, "sleep", sleep)
    make_table(config)
    assert counted.calls["random", "1"] == 1


def test_two_processes_share_a_table(config: TableConfig, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def after_the_other(*arguments: Any) -> dict[job.Job, str]:
        deadline = time.monotonic() + 120
        while not list(config.out.glob("cells/*/evaluation-*.json")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return shared_jobs.do_all(*arguments)

    monkeypatch.setattr("fastdc.experiments.tables.make.do_all", after_the_other)
    make_table(dataclasses.replace(config, scale=dataclasses.replace(SCALES["tiny"], sets=2)), workers=2)
    lines = [line.split("] ")[1] for line in capfd.readouterr().out.splitlines() if line.startswith("[")]
    assert len(lines) == len(set(lines)) == 12


# what is written


def filled(table: str, outcomes: dict[tuple[str, str], Any], dataset: str = "fashion-mnist") -> FilledTable:
    cells = tuple(Cell(row, column, ImageSet("dc", "convnet", 1), "convnet") for row, column in outcomes)
    definition = dataclasses.replace(defined(table), cells=cells)
    return FilledTable(
        definition, dict(zip(cells, outcomes.values(), strict=True)), paper_figures(definition.figures, dataset), "caption", {}
    )


def test_ours_and_the_paper_s_figures_stand_side_by_side() -> None:
    outcomes = {("1", "Random"): Evaluation((0.5, 0.52)), ("1", "DC"): Skipped("too small."), ("7", "Random"): Evaluation((0.6,))}
    table = filled("coresets", {**outcomes, ("7", "DC"): Skipped("too small.")})
    text = table.markdown()
    assert "| images per class | Random | DC |" in text
    assert "| 1 | 51.0 +- 1.0 (paper 51.4 +- 3.8) | left out [1] (paper 70.5 +- 0.6) |" in text
    assert "| 7 | 60.0 +- 0.0 | left out [1] |" in text
    assert "2 of 4 cells were left out:\n\n1. too small." in text
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    assert [row["mean"] for row in rows] == ["51.00", "", "60.00", ""]
    assert (rows[0]["networks"], rows[0]["std"], rows[0]["paper_mean"], rows[0]["paper_std"]) == ("2", "1.00", "51.4", "3.8")
    assert (rows[1]["paper_mean"], rows[1]["reason"]) == ("70.5", "too small.")


def test_the_table_by_ipc_is_also_relative_to_the_whole_set() -> None:
    table = filled("ipc", {("1", "DC"): Evaluation((0.4,)), ("1", "whole set"): Evaluation((0.8,))})
    assert "| images per class | DC | whole set | DC / whole set, % |" in table.markdown()
    assert "| 1 | 40.0 +- 0.0 (paper 70.5 +- 0.6) | 80.0 +- 0.0 (paper 93.5 +- 0.1) | 50.0 |" in table.markdown()
    assert next(csv.DictReader(io.StringIO(table.csv())))["relative"] == "50.00"


def test_the_caption_says_dataset_and_scale_and_the_learned_images_are_shown(config: TableConfig, counted: Counted) -> None:
    make_table(dataclasses.replace(config, scale_name="tiny"))
    text = (config.out / "table.md").read_text()
    assert "digits, scale tiny: 2 iterations, 8 real images" in text
    assert "; protocol dc; seed 0, fastdc " in text
    assert "(cells/dc-convnet_width=8-ipc1-seed0/condensed.png)" in text
    assert text.count("condensed.png") == 1


@pytest.mark.parametrize("there", [False, pytest.param(True, marks=needs_matplotlib)], ids=["without matplotlib", "with matplotlib"])
def test_the_plot_is_drawn_where_matplotlib_is(config: TableConfig, counted: Counted, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr("fastdc.experiments.tables.make.can_plot", lambda: there)
    make_table(dataclasses.replace(config, table="ipc", ipc=(1, 3), columns=("dc",)))
    text = (config.out / "table.md").read_text()
    assert (config.out / "table.png").exists() == there == ("(table.png)" in text) != ("fastdc-torch[plot]" in text)
    if there:
        assert Image.open(config.out / "table.png").format == "PNG"


def test_a_table_is_tested_by_one_protocol(config: TableConfig, tmp_path: Path) -> None:
    table = make_table(dataclasses.replace(config, protocol="dsa:operations=crop+color"))
    outcomes = {cell.column: outcome for cell, outcome in table.outcomes.items() if isinstance(outcome, Evaluation)}
    assert {(one.protocol, one.epochs) for name, one in outcomes.items() if name != "whole set"} == {("dsa:operations=crop+color", 2)}
    assert outcomes["whole set"].protocol is None
    assert "; protocol dsa:operations=crop+color; seed 0" in (config.out / "table.md").read_text()
    with pytest.raises(UsageError, match=r"differs in protocol \('dsa:operations=crop\+color' there, 'dc' now\)"):
        make_table(config)


def test_a_table_of_digits_mirrors_no_image(config: TableConfig) -> None:
    operations = "color+crop+cutout+scale+rotate"
    table = make_table(dataclasses.replace(config, columns=("dm",), protocol="dsa"))
    (learned,) = (CondensedDataset.load(path) for path in config.out.glob("cells/dm-*/condensed.safetensors"))
    assert learned.provenance["config"]["augmentation"] == f"siamese:operations={operations},mode=one"
    protocols = {cell.column: outcome.protocol for cell, outcome in table.outcomes.items() if isinstance(outcome, Evaluation)}
    assert protocols["dm"] == json.loads((config.out / "config.json").read_text())["config"]["protocol"] == f"dsa:operations={operations}"
    assert f"; protocol dsa:operations={operations}; seed 0" in (config.out / "table.md").read_text()


def test_columns_are_what_is_asked_for_within_their_budget(config: TableConfig) -> None:
    quick = "ncfm:networks=1,epochs=1"
    table = make_table(dataclasses.replace(config, columns=("kmeans", quick, "auto", "untrained"), budget="5s"))
    assert table.definition.columns == ("k-means", quick, "auto", "untrained", "whole set")
    made = {
        path.parent.name.split("-")[0].split("_")[0]: CondensedDataset.load(path)
        for path in config.out.glob("cells/*/condensed.safetensors")
    }
    given = {name: condensed.provenance["config"] for name, condensed in made.items() if "config" in condensed.provenance}
    assert {name: content["budget"] for name, content in given.items()} == {"ncfm": "5s", "auto": "5s", "untrained": None}
    assert given["untrained"]["iterations"] == 0 < given["auto"]["iterations"]
    assert "frequencies=256" in given["ncfm"]["match"]  # the scale of a laptop
    assert "5s for each image set of a method" in (config.out / "table.md").read_text()


def test_several_sets_and_networks_are_pooled(config: TableConfig, counted: Counted) -> None:
    table = make_table(dataclasses.replace(config, scale=dataclasses.replace(SCALES["tiny"], sets=3, networks=4)))
    networks = {cell.column: len(outcome.accuracies) for cell, outcome in table.outcomes.items() if isinstance(outcome, Evaluation)}
    assert networks == {"Random": 12, "Herding": 12, "K-Center": 12, "Forgetting": 12, "DC": 12, "whole set": 3}


# what cannot be done


def test_networks_that_the_images_do_not_fit_are_left_out_with_their_reason(config: TableConfig, counted: Counted) -> None:
    table = make_table(dataclasses.replace(config, table="depth", columns=None))
    left_out = {(cell.row, cell.column) for cell, outcome in table.outcomes.items() if isinstance(outcome, Skipped)}
    assert left_out == {(row, column) for row in "1234" for column in "1234" if "4" in (row, column)}
    text = (config.out / "table.md").read_text()
    assert "7 of 16 cells were left out:" in text
    assert "4 poolings reduce a 8x8 image to nothing" in text
    assert len(counted.calls) == 3 + 3  # depth 4 neither condenses nor is tested
    assert counted.calls["dc", "convnet:width=8,depth=4", "1", "layerwise_cosine"] == 0


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"table": "depth"}, "columns are given, but table 'depth' has its own; leave them out, or make one of coresets, ipc"),
        ({"columns": ()}, "; expected one name or more, each once"),
        ({"columns": ("dc", "dc")}, "; expected one name or more, each once"),
        ({"columns": ("random", "dcc")}, "unknown column 'dcc'. Did you mean 'dc'"),
        ({"budget": "soon"}, "budget is 'soon'; expected a time such as"),
        ({"table": "coreset"}, "unknown table 'coreset'. Did you mean 'coresets'?"),
        ({"ipc": (1, 500)}, "ipc is 500; expected a whole number from 1 to 146, the number of images of class"),
        ({"ipc": (0,)}, "ipc is 0; expected a whole number of 1 or more"),
        ({"ipc": (1, 1)}, "each once"),
        ({"ipc": ()}, "expected one number or more"),
        ({"model": "mlp"}, "model is 'mlp'; expected the ConvNet"),
        ({"model": "convnet:breadth=3"}, "unknown option of 'convnet' 'breadth'"),
        ({"dataset": "digit"}, "unknown dataset 'digit'. Did you mean 'digits'?"),
        ({"engine": "nativ"}, "unknown engine"),
        ({"device": "gpu"}, "unknown device"),
        ({"seed": -1}, "seed is -1"),
        ({"protocol": "auto"}, "unknown protocol 'auto'. Known: dc, dsa, idc"),
    ],
    ids=str,
)
def test_bad_options_get_a_sentence_and_write_nothing(config: TableConfig, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_table(dataclasses.replace(config, **changes))
    assert text in str(caught.value)
    assert not config.out.exists()


def test_bad_flags_get_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for flags, text in (
        (["coresets", "--scale", "huge"], "unknown scale 'huge'. Known: laptop, paper, tiny."),
        (["coresets", "--networks", "0"], "networks is 0; expected a whole number of 1 or more."),
        (["coresets", "--workers", "0"], "workers is 0; expected a whole number of 1 or more."),
        (["figure"], "unknown table 'figure'."),
    ):
        assert main(["table", *flags]) == 2
        assert text in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_keeps_to_its_table(config: TableConfig, counted: Counted) -> None:
    make_table(config)
    before = (config.out / "table.md").read_bytes()
    with pytest.raises(UsageError, match=r"differs in ipc \(\[1\] there, \[2\] now\)"):
        make_table(dataclasses.replace(config, ipc=(2,)))
    assert (config.out / "table.md").read_bytes() == before


def test_a_folder_keeps_to_its_test_set(config: TableConfig, counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = load_dataset("digits")
    config, tested = dataclasses.replace(config, columns=("random",)), [test]
    monkeypatch.setattr("fastdc.experiments.tables.make.load_dataset", lambda *_, **__: (train, tested[-1]))
    make_table(config)
    file = config.out / "config.json"
    written = json.loads(file.read_text())
    file.write_text(json.dumps({**written, "fingerprint": train.fingerprint}))  # as an earlier version did
    with pytest.raises(UsageError, match=r"differs in seed \(0 there, 1 now\)"):
        make_table(dataclasses.replace(config, seed=1))
    assert json.loads(file.read_text())["fingerprint"] == train.fingerprint
    make_table(config)
    assert json.loads(file.read_text()) == written
    tested.append(dataclasses.replace(test, images=255 - test.images))
    with pytest.raises(UsageError, match="holds a run that differs in the images to learn from, their size or classes; fingerprint"):
        make_table(config)


def test_a_file_in_the_place_of_the_folder_is_refused(config: TableConfig) -> None:
    config.out.write_text("mine")
    with pytest.raises(RunError, match="is a file; expected a folder"):
        make_table(config)
    assert config.out.read_text() == "mine"


def test_a_damaged_result_is_named(config: TableConfig, counted: Counted) -> None:
    make_table(config)
    file = config.out / "cells" / "random-convnet_width=8-ipc1-seed0" / "evaluation-convnet_width=8.json"
    file.write_text('{"accuracies"')
    with pytest.raises(DataError, match="remove it to make it anew"):
        make_table(config)
    file.unlink()
    make_table(config)
    assert counted.calls["random", "1"] == 1  # the images are still there


def test_options_come_from_a_file_too(tmp_path: Path, counted: Counted) -> None:
    (tmp_path / "options.toml").write_text('scale = "tiny"\nnetworks = 3\nipc = [1, 2]\n')
    assert main(["table", "distance", "--config", str(tmp_path / "options.toml"), "--out", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / "config.json").read_text())["config"]
    assert (content["ipc"], content["networks"], content["width"]) == ([1, 2], 3, 8)
