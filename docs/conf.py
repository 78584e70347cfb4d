"""The site of the documents: `sphinx-build -W --keep-going -b html docs build/site`, without a network.

The pages are the Markdown files of docs/ and some that stand elsewhere in the repository, which are copied; those of the Python names are
written from `fastdc.__all__`. What is copied and written is not committed.
"""

from __future__ import annotations

import inspect
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any

import fastdc

DOCS = Path(__file__).parent
ROOT = DOCS.parent
COPIES = {ROOT / name: DOCS / "repository" / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "bench/README.md", "examples/README.md")}
NAMES = {name: getattr(fastdc, name) for name in fastdc.__all__}
PUBLIC = {f"{thing.__module__}.{thing.__qualname__}": f"fastdc.{name}" for name, thing in NAMES.items() if hasattr(thing, "__qualname__")}

project = "fastdc"
author = copyright = "The fastdc developers"
version = release = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)[0]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"fastdc {version}"
html_copy_source = False
smartquotes_action = "D"  # dashes; quotes are part of what is typed
exclude_patterns = ["pictures"]
pygments_style, pygments_dark_style = "friendly", "native"
myst_heading_anchors = 3  # as GitHub has them
nitpicky = True
nitpick_ignore_regex = [("py:obj", ".*"), ("py:.*", r"(?!fastdc\.\w+$).*")]  # backquotes, others' names, and what has no page
default_role = "py:obj"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
maximum_signature_line_length = 100


def write_pages(app: Any) -> None:
    """Copy the pages from elsewhere, and write one for each public name and a list of them, by their kinds."""
    for page, copy in COPIES.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(page, copy)
    folder = DOCS / "api"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    listed = heading("Python")
    for kind, names in by_kind().items():
        listed += [*heading(kind, "-"), *(f":doc:`fastdc.{name} <{name}>`\n   {summary(NAMES[name])}\n" for name in names)]
        listed += [".. toctree::", "   :hidden:", "", *(f"   {name}" for name in names), ""]
        for name in names:
            (folder / f"{name}.rst").write_text(page_of(f"fastdc.{name}", NAMES[name]))
    (folder / "index.rst").write_text("\n".join(listed))


def by_kind() -> dict[str, list[str]]:
    """The public names in the order of a reader's use; a module's name of an earlier version is left out."""
    kinds: dict[str, list[str]] = {kind: [] for kind in ("Functions", "Classes", "Modules", "Registries", "Errors")}
    for name, thing in NAMES.items():
        if isinstance(thing, ModuleType):
            if thing.__name__ == f"fastdc.{name}":
                kinds["Modules"].append(name)
        elif inspect.isclass(thing):
            kinds["Errors" if issubclass(thing, BaseException) else "Classes"].append(name)
        else:
            kinds["Functions" if callable(thing) else "Registries"].append(name)
    return kinds


def summary(thing: Any) -> str:
    """The first line of what describes it; of a registry, its names; of a union of classes, these."""
    if isinstance(thing, Iterable):
        return ", ".join(f"``{name}``" for name in thing)
    if isinstance(thing, UnionType):
        return " | ".join(f"``{each.__name__}``" for each in thing.__args__)
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def page_of(name: str, thing: Any) -> str:
    """What autodoc is to make of a public name; of a module, of each name that it lists."""
    if isinstance(thing, ModuleType):
        members = [each for each in thing.__all__ if each not in NAMES]
        return "\n".join(
            [
                *heading(name),
                f".. automodule:: {name}",
                "",
                *(line for each in members for line in directive(f"{name}.{each}", getattr(thing, each))),
            ]
        )
    return "\n".join([*heading(name), *directive(name, thing)])


def heading(text: str, line: str = "=") -> list[str]:
    """A title in reStructuredText."""
    return [text, line * len(text), ""]


def directive(name: str, thing: Any) -> list[str]:
    """What autodoc is to make of a function or class; of a registry or a type, a line."""
    if inspect.isclass(thing):
        inherits = ["   :show-inheritance:"] if issubclass(thing, BaseException) else []
        return [f".. autoclass:: {name}", "   :members:", *inherits, ""]
    if callable(thing):
        return [f".. autofunction:: {name}", ""]
    return [f".. py:data:: {name}", "", f"   {summary(thing)}", ""]


def move_links(app: Any, page: str, source: list[str]) -> None:
    """Let links lead to the copies, and those of copies to where the originals' lead."""
    file = Path(app.env.doc2path(page))
    original = {copy: path for path, copy in COPIES.items()}.get(file, file)

    def moved(match: re.Match[str]) -> str:
        path, mark, place = match[1].partition("#")
        if not path or "://" in path:
            return match[0]
        target = (original.parent / path).resolve()
        return f"]({os.path.relpath(COPIES.get(target, target), file.parent)}{mark}{place})"

    source[0] = re.sub(r"\]\(([^)\s]+)\)", moved, source[0])


def leave_attributes(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Napoleon takes what stands before a colon in the first line of an attribute's docstring for its type: begin with another line."""
    if what in ("attribute", "property"):
        lines.insert(0, "\\ ")  # an escaped space, which is nothing


def find_public(app: Any, env: Any, node: Any, content: Any) -> Any:
    """A link to where a public name is defined, such as fastdc._condense.condense, leads to the public name."""
    name = PUBLIC.get(node.get("reftarget"))
    return name and env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, node["reftype"], name, node, content)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", write_pages)
    app.connect("source-read", move_links)
    app.connect("autodoc-process-docstring", leave_attributes, priority=0)
    app.connect("missing-reference", find_public)
