"""From arguments to a command: flags, the file that --config names, and complaints in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import tyro

from fastdc.errors import DataError, MissingFileError, UsageError, unknown_name
from fastdc.runs.content import UNFORESEEN, in_a_line, plain_types
from fastdc.runs.files import read_whole

Command = TypeVar("Command")


@dataclass(frozen=True, kw_only=True)
class Common:
    """The options of every command."""

    shared: ClassVar[bool] = False
    """Whether all processes of a launcher take part; else the first alone does what is asked for."""

    quiet: bool = False
    """Show no progress bar."""
    debug: bool = False
    """Show the traceback of an error."""
    config: str | None = None
    """A TOML or JSON file with any of these options; flags override it."""


@dataclass(frozen=True, kw_only=True)
class ComputeOptions(Common):
    """The options of commands that load a dataset and train networks."""

    data_root: str | None = None
    """The folder where datasets are kept and downloaded to. The default is ~/.cache/fastdc/data."""
    engine: str = "auto"
    """The engine that trains the networks. With auto it is the fastest that can train them."""
    device: str = "auto"
    """The device to compute on: auto, cpu, cuda or cuda:N. With auto it is a GPU where there is one."""


@dataclass(frozen=True, kw_only=True)
class DatasetOptions(Common):
    """How much of a dataset commands take that make images of it."""

    image_size: int | tuple[int, int] | None = None
    """The size to bring the middle of each image to: a number, or height and width as 24 32. The default is to leave images as they
    are."""
    classes: tuple[str, ...] | None = None
    """The names or numbers of the classes to take. The default is all."""


@dataclass(frozen=True, kw_only=True)
class ExperimentOptions(ComputeOptions):
    """The options of commands that do many jobs and report what they come to."""

    shared: ClassVar[bool] = True

    scale: str = "laptop"
    """How much of the paper's protocol to spend: tiny, laptop or paper. Options whose default is the scale's change a part of it."""
    workers: int = 1
    """The number of processes that share the work. Each of them takes its part of the threads."""


def parse(commands: dict[str, Callable[..., Command]], given: list[str], description: str) -> Command:
    """The command that the arguments name, made with their options and those of the file that --config names.

    Raises:
        UsageError: an unknown command, option or value; the text is one line.
        DataError: a file that cannot be read.
        SystemExit: --help was printed.
    """
    if given and given[0].startswith("-") and given[0] not in ("-h", "--help"):
        raise UsageError(f"{given[0]!r} stands before the command; expected one of {', '.join(commands)} first, then its options.")
    if not given or given[0].startswith("-"):
        return tyro.extras.subcommand_cli_from_dict(commands, args=given or ["--help"], prog="fastdc", description=description)
    name, arguments = given[0], given[1:]
    if name not in commands:
        raise unknown_name("command", name, commands)
    command = commands[name]
    positional = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments))
    arguments = [*positional, *_config_arguments(command, arguments), *arguments[len(positional) :]]  # a list may end the file's options
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(command, args=arguments, prog=f"fastdc {name}")
    except SystemExit as end:
        if end.code in (0, None):
            raise
        file = _config_file(arguments)
        more = f" Options stand in {file}, too." if file is not None else ""
        raise UsageError(f"{in_a_line(_in_one_line(complaint.getvalue()), 600)} See fastdc {name} --help.{more}") from None


def _in_one_line(box: str) -> str:
    """The complaint of the parser and its first suggestion, without the box drawn around them."""
    lines = [re.sub(r"[\u2500-\u257f]", "", line).strip() for line in box.splitlines()[1:]]
    sections = [section.split("\n") for section in "\n".join(lines).strip().split("\n\n")]
    text = " ".join(sections[0]).rstrip(".") + "."
    hints = [section for section in sections[1:] if section[0].startswith("Perhaps you meant") and len(section) > 1]
    return f"{text} Perhaps you meant {hints[0][1]}." if hints else text


def _config_file(arguments: Sequence[str]) -> str | None:
    """What --config names."""
    path = next((value for flag, value in itertools.pairwise(arguments) if flag == "--config"), None)
    return next((flag.partition("=")[2] for flag in arguments if flag.startswith("--config=")), path)


def _config_arguments(command: Any, arguments: Sequence[str]) -> list[str]:
    """The options of the file that --config names, as flags."""
    path = _config_file(arguments)
    if path is None:
        return []
    fields = {field.name: str(field.type).removeprefix("Annotated[") for field in dataclasses.fields(command)}
    names = fields.keys() - {"config", "condensed", "runs", "table"}
    flags: list[str] = []
    for key, value in _read_config(Path(path).expanduser()).items():
        name = key.replace("-", "_")
        if name not in names:
            raise unknown_name(f"option in {path}", in_a_line(key, 80), names)
        values = value if isinstance(value, list) else [value]
        if any(not isinstance(one, str | int | float | None) or (isinstance(one, str) and one.startswith("-")) for one in values):
            given = in_a_line(repr(value), 80)
            raise DataError(f"{path} says {name} = {given}; expected a name, a number, true or false, or a list of names or numbers.")
        if value is True:
            flags.append(f"--{name}")
        elif isinstance(value, list) and "tuple[int, ...]" in fields[name] and not fields[name].startswith("tuple"):  # or one number
            flags += [f"--{name}", ",".join(map(str, value))]
        elif value is not False and value is not None:
            flags += [f"--{name}", *map(str, values)]
    return flags


def _read_config(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        text = read_whole(path).decode("utf-8-sig")
        content = plain_types(text) if path.suffix == ".json" else tomllib.loads(text)
        options = content.get("config", content) if isinstance(content, dict) else None  # config.json of a run has this key
        if not isinstance(options, dict):
            raise ValueError("expected keys with values")
        return options
    except FileNotFoundError:
        raise MissingFileError(f"{path} is missing; expected a TOML or JSON file with options.") from None
    except UNFORESEEN as error:
        kind, reason = "JSON" if path.suffix == ".json" else "TOML", in_a_line(error) or type(error).__name__
        raise DataError(f"{path} cannot be read as {kind} ({reason}); expected names of options with their values.") from None
