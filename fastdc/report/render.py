"""From a report's values to the text of its page, and to its file."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdc.runs.files import write_atomically
from fastdc.runtime.versions import versions

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, page: Any) -> str:
    """The text of a page; whatever comes from users is escaped in it."""
    return _environment().get_template(template).render(page=page, version=versions()["fastdc"])


def write_page(path: Path, text: str) -> None:
    """Write a page, whole or not at all.

    Raises:
        RunError: the file cannot be written.
    """
    write_atomically(path, text.encode(errors="replace"))


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("fastdc.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
