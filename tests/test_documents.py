"""What the documents say works: their Python runs, their commands parse, their links lead somewhere."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from test_rooms import ROOMS

import fastdc
from fastdc.engines import ENGINES
from fastdc.metrics import METRICS, ROWS
from fastdc.metrics.backends import BACKENDS
from fastdc.models import model_names
from fastdc.models.parts import ACTIVATIONS, NORMS, POOLINGS
from fastdc.recipe import CHOICES
from fastdc.training.protocols import PROTOCOLS

ROOT = Path(__file__).parent.parent
PAGES = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
NOTEBOOKS = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "examples").glob("*.ipynb"))}
ALL_PAGES = PAGES | {name: ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "bench/README.md", "examples/README.md")} | NOTEBOOKS
NOT_RUN = re.compile(r"<!-- not run: .+ -->")
pytestmark = pytest.mark.skipif(not PAGES.keys() > {"README.md"}, reason="docs/ is missing: these tests run in a source tree")


def lines_of(page: str) -> list[str]:
    """Of a notebook those of its text."""
    text = ALL_PAGES[page].read_text()
    if page in NOTEBOOKS:
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")
    return text.splitlines()


def python_blocks(page: str) -> Iterator[tuple[int, str]]:
    """The number of the first line, and the text, of every ```python block that is not marked `<!-- not run: reason -->`."""
    lines = lines_of(page)
    for start, line in enumerate(lines):
        if line == "```python" and not NOT_RUN.fullmatch(lines[start - 1]):
            yield start + 2, "\n".join(lines[start + 1 : lines.index("```", start)])


def commands(page: str) -> Iterator[tuple[int, list[str]]]:
    """Every command line of fastdc, with the number of its line: those that stand indented, after && as well, and those in backquotes.

    A command in backquotes without any argument is a command's name, and left out.
    """
    for number, line in enumerate(lines_of(page), 1):
        indented = line.startswith("    ")
        for part in line.split("&&") if indented else re.findall(r"`(fastdc [^`]+)`", line):
            words = shlex.split(part, comments=True)
            if words[:1] == ["fastdc"] and "COMMAND" not in words and (indented or len(words) > 2):
                yield number, words[1:]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: None) -> None:
    """A folder to write to, a home without caches, and one thread, which is the quickest for networks so small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.set_num_threads(1)


@pytest.mark.parametrize("page", PAGES)
def test_python_on_a_page_runs_in_its_order(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CHOICES["match"], "_entries", dict(CHOICES["match"]._entries))  # a page may add one
    if page == "docs/recipes.md":  # it names a recipe of its own, which is gone afterwards
        monkeypatch.setitem(fastdc.RECIPES, "one_network", fastdc.Recipe())
    if page == "docs/engines.md":  # and a metric
        monkeypatch.setitem(METRICS, "huber", METRICS["mse"])
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # where dataclasses look for the types of their fields
    for line, block in python_blocks(page):
        exec(compile("\n" * (line - 1) + block, PAGES[page], "exec", dont_inherit=True), module.__dict__)


@pytest.mark.parametrize("page", ALL_PAGES)
def test_every_command_line_of_fastdc_is_one_that_it_takes(page: str, cli: ModuleType) -> None:
    from fastdc.cli.arguments import parse
    from fastdc.experiments.tables import TABLES

    for number, command in commands(page):
        try:
            made = parse(cli.COMMANDS, command, "")
        except fastdc.UsageError as error:
            pytest.fail(f"{page}:{number}: fastdc {shlex.join(command)}\n{error}")
        table = getattr(made, "table", "NAME")
        assert table == "NAME" or table in TABLES, f"{page}:{number}"


def test_the_commands_of_the_pages_are_found() -> None:
    assert sum(1 for page in ALL_PAGES for _ in commands(page)) > 30
    assert sum(1 for page in PAGES for _ in python_blocks(page)) > 8


@pytest.mark.parametrize("page", ALL_PAGES)
def test_every_relative_link_leads_somewhere(page: str) -> None:
    text = re.sub(r"```.*?```", "", ALL_PAGES[page].read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = ALL_PAGES[page].parent / path if path else ALL_PAGES[page]
        assert file.exists(), f"{page} links to {target}"
        if heading:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), flags=re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}, f"{page} links to {target}"


def test_every_page_of_the_site_is_in_a_list_of_its_first_page() -> None:
    conf = runpy.run_path(str(ROOT / "docs" / "conf.py"))
    lists = re.findall(r"^```\{toctree\}\n(.*?)^```", PAGES["docs/index.md"].read_text(), flags=re.DOTALL | re.MULTILINE)
    listed = [line for text in lists for line in text.splitlines() if line and not line.startswith(":")]
    pages = {Path(page).stem for page in PAGES if page.startswith("docs/")} - {"index"}
    copies = {path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in conf["COPIES"].values()}
    assert sorted(listed) == sorted({*pages, *copies, "api/index"})
    assert listed[0] == "recipes"
    assert "search" not in pages  # where Sphinx puts its own page


def test_every_public_name_has_a_page() -> None:
    conf = runpy.run_path(str(ROOT / "docs" / "conf.py"))
    names = [name for names in conf["by_kind"]().values() for name in names]
    assert sorted({*fastdc.__all__} - {*names}) == ["applications", "methods"]  # modules of version 0.1 by their names of then
    assert f"fastdc.{names[0]}" in conf["page_of"](f"fastdc.{names[0]}", getattr(fastdc, names[0]))


def test_the_diagrams_are_those_of_their_script() -> None:
    for name, drawn in runpy.run_path(str(ROOT / "docs" / "pictures" / "make.py"))["DIAGRAMS"].items():
        assert (ROOT / "docs" / "pictures" / f"{name}.svg").read_text() == drawn(), "run python docs/pictures/make.py --draw"


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/internals.md"])
def test_every_file_that_is_named_is_there(page: str) -> None:
    """Paths in backquotes whose first folder is one of the repository's; capitals, as in tests/test_X.py, stand for a name."""
    named = re.findall(r"`((?:fastdc|csrc|kernels|tests|bench|docs|examples|\.ci|\.github)/[\w./*-]*)`", ALL_PAGES[page].read_text())
    assert named
    for name in (name.replace("fastdc/kernels", "kernels") for name in named):  # where the package's kernels lie in the repository
        placeholder = re.search(r"\b[A-Z]+\b|_[A-Z]+\b", Path(name).stem)
        path = ROOT / (Path(name).parent if placeholder else name)
        assert path.exists() or path.with_name(path.name + ".py").exists() or list(ROOT.glob(name)), f"{page} names {name}"


def load_tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "bench")
    return importlib.import_module("tables")


@pytest.mark.parametrize("page", PAGES)
def test_measured_tables_are_those_of_the_result_files(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGES[page].read_text()
    assert load_tables(monkeypatch).refreshed(text) == text, "run python bench/tables.py"


def test_every_measured_table_stands_between_its_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = load_tables(monkeypatch)
    texts = [path.read_text() for path in PAGES.values()]
    assert {name for text in texts for _, name, _ in tables.MARKED.findall(text)} == tables.TABLES.keys()
    assert [line for text in texts for line in tables.MARKED.sub("", text).splitlines() if re.match(r"\|.*\d \+- \d", line)] == []


def test_every_result_file_names_its_command_and_machine(monkeypatch: pytest.MonkeyPatch, cli: ModuleType) -> None:
    from fastdc.cli.arguments import parse

    tables = load_tables(monkeypatch)
    files = sorted(tables.RESULTS.glob("*.json"))
    assert len(files) > 10
    for file in files:
        content = tables.results(file.stem)
        assert content["rows"], file
        assert content["machine"]["cpu"], file
        assert content["date"] or content["transcribed"], file
        program, *words = shlex.split(content["command"])
        if program == "fastdc":
            parse(cli.COMMANDS, words, "")
        else:
            assert program in ("pytest", "python"), file
            assert (ROOT / words[0]).exists(), file


def test_what_a_command_reports_becomes_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "bench")
    record = importlib.import_module("record")
    (tmp_path / "evaluation.json").write_text('{"results": {"random": {"mean": 0.5, "std": 0.125, "accuracies": [0.375, 0.625]}}}')
    rows = record.reported(tmp_path)
    assert rows == [{"subject": "random", "mean": 50.0, "std": 12.5, "networks": 2}]
    (tmp_path / "table.csv").write_text("row,column,mean,std,reason\n1,DC,68.23,1.1,\n10,DC,,,too small\n")
    rows = record.reported(tmp_path)
    assert rows == [{"row": 1, "column": "DC", "mean": 68.23, "std": 1.1}, {"row": 10, "column": "DC", "reason": "too small"}]
    record.write(tmp_path / "found.json", "fastdc info", rows, seconds=1.5)
    monkeypatch.setattr(load_tables(monkeypatch), "RESULTS", tmp_path)
    found = load_tables(monkeypatch).results("found")
    assert (found["command"], found["seconds"], found["rows"]) == ("fastdc info", 1.5, rows)
    assert found["machine"]["torch"] == torch.__version__


def test_a_figure_that_is_typed_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tables = load_tables(monkeypatch)
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    page = tmp_path / "README.md"
    page.write_text("Before.\n<!-- table: memory -->\n| typed |\n<!-- end -->\nAfter.\n")
    assert tables.main(["--check"]) == 1
    assert capsys.readouterr().out.startswith("README.md is out of date")
    assert tables.main([]) == 0
    assert "| native |" in page.read_text()
    assert page.read_text().endswith("<!-- end -->\nAfter.\n")
    assert tables.main(["--check"]) == 0


def test_the_readme_is_short() -> None:
    assert len(lines_of("README.md")) <= 110


def options_of(*functions: object) -> set[str]:
    return {name for function in functions for name in inspect.signature(function).parameters}


def test_every_option_has_its_place_in_the_options() -> None:
    text = PAGES["docs/options.md"].read_text()
    options = options_of(fastdc.condense, fastdc.evaluate, *fastdc.coresets.SELECTIONS.values())
    assert sorted(name for name in options if f"`{name}`" not in text) == []
    networks = inspect.signature(fastdc.evaluate).parameters["networks"].default
    defaults = {**dataclasses.asdict(fastdc.RECIPES["dc"]), "networks": networks}
    for name in ("iterations", "lr_images", "lr_model", "batch_real", "networks"):
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        assert row.rstrip(" |").endswith(f" {defaults[name]}"), row


def test_every_flag_has_its_place_in_the_pages(cli: ModuleType) -> None:
    text = "".join(path.read_text() for path in PAGES.values())
    flags = {field.name for command in cli.COMMANDS.values() for field in dataclasses.fields(command)}
    missing = {name for name in flags if f"`{name}`" not in text and f"--{name.replace('_', '-')}" not in text}
    assert missing <= {"table", "runs"}  # which stand by their place: fastdc table NAME, fastdc report RUN


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("docs/recipes.md", [*fastdc.RECIPES, *CHOICES, *CHOICES["match"]]),
        ("docs/engines.md", [*ENGINES, *BACKENDS]),
        ("docs/options.md", [*model_names(), *fastdc.coresets.SELECTIONS, *METRICS, *NORMS, *ACTIVATIONS, *POOLINGS, *PROTOCOLS]),
        ("docs/engines.md", [f"rows={rows}" for rows in ROWS]),
    ],
)
def test_every_name_of_a_registry_has_its_place(page: str, names: list[str]) -> None:
    assert [name for name in names if f"`{name}`" not in PAGES[page].read_text()] == []


def test_every_metric_has_its_formula() -> None:
    assert [name for name in METRICS if f"\n    {name} " not in PAGES["docs/engines.md"].read_text()] == []


def test_internals_list_the_rooms_in_their_order() -> None:
    assert re.findall(r"^\| `fastdc/(\w+)` \|", PAGES["docs/internals.md"].read_text(), flags=re.MULTILINE) == list(ROOMS)


def drawn_by_name() -> set[str]:
    """The first text that each draw of random numbers gives for its stream; that of a training stands for all that it draws."""
    found = set()
    for path in Path(fastdc.__file__).parent.rglob("*.py"):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            name = call.func.id if isinstance(call.func, ast.Name) else call.func.attr if isinstance(call.func, ast.Attribute) else ""
            texts = [each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            if name in ("derive_seed", "make_generator", "indices", "draw"):
                found |= {*texts[:1]}
            elif name == "train_by_batch" or (name == "_train" and path.name == "learner.py"):
                augmented = ("augmentation",) if any(each.arg == "augment" for each in call.keywords) else ()
                found |= {f"{text} {drawn}" for text in texts for drawn in ("order", "dropout", *augmented)}
    return found


def test_internals_list_every_stream_of_random_numbers() -> None:
    section = PAGES["docs/internals.md"].read_text().split("## Where random numbers come from")[1].split("\n## ")[0]
    keys = " ".join(line.split("|")[1] for line in section.splitlines() if line.startswith("|"))
    drawn = drawn_by_name()
    assert {"network", "real images", "whole set dropout", "fine-tuning order"} <= drawn
    assert sorted(name for name in drawn if f"`{name}`" not in keys) == []


def test_the_versions_agree() -> None:
    version = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)[0]
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    heading = "Unreleased" if "dev" in version else version
    assert re.findall(r"^## \[(.+)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[0] == heading
