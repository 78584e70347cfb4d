"""The command line: fastdc condense | estimate | select | evaluate | show | table | continual | search | report | info | selfcheck."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import ClassVar, Protocol, TextIO

from fastdc.cli.arguments import parse
from fastdc.cli.condense import Condense
from fastdc.cli.continual import Continual
from fastdc.cli.estimate import EstimateCommand
from fastdc.cli.evaluate import Evaluate
from fastdc.cli.info import Info
from fastdc.cli.names import with_names
from fastdc.cli.report import Report
from fastdc.cli.search import SearchCommand
from fastdc.cli.select import Select
from fastdc.cli.selfcheck import Selfcheck
from fastdc.cli.show import Show
from fastdc.cli.table import Table
from fastdc.errors import FastdcError, Interrupted, UsageError
from fastdc.parallel.out_of_memory import is_out_of_memory, out_of_memory_sentence
from fastdc.parallel.world import launched, leads_by_launcher, world

_DESCRIPTION = "Dataset condensation with gradient matching: a few images per class that stand in for a training set."


class _Command(Protocol):
    shared: ClassVar[bool]

    @property
    def debug(self) -> bool: ...

    def run(self) -> None: ...


COMMANDS: dict[str, Callable[..., _Command]] = {
    "condense": with_names(Condense),
    "estimate": with_names(EstimateCommand),
    "select": with_names(Select),
    "evaluate": with_names(Evaluate),
    "show": Show,
    "table": with_names(Table),
    "continual": with_names(Continual),
    "search": with_names(SearchCommand),
    "report": Report,
    "info": Info,
    "selfcheck": Selfcheck,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 (an error), 2 (usage), 130 or 143 (SIGINT, SIGTERM)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _raise_interrupted)
    debug = "--debug" in given
    try:
        command = parse(COMMANDS, given, _DESCRIPTION)
        debug = command.debug
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            if command.shared:
                with launched(), _among_processes():
                    command.run()
            elif leads_by_launcher():
                command.run()
    except KeyboardInterrupt as stop:
        text = str(stop) or "stopped; the same command again continues from the last checkpoint."
        print(f"fastdc: {text}", file=sys.stderr)
        return 128 + (stop.signum if isinstance(stop, Interrupted) else signal.SIGINT)
    except SystemExit as end:  # --help
        return end.code if isinstance(end.code, int) else 2
    except Exception as error:
        if debug:
            traceback.print_exc()
        elif isinstance(error, FastdcError):
            print(f"fastdc: {error}", file=sys.stderr)
        elif is_out_of_memory(error):
            print(f"fastdc: {out_of_memory_sentence(error)}", file=sys.stderr)
        else:
            first = (str(error).splitlines() or [""])[0]
            print(f"fastdc: {type(error).__name__}: {first}\nThis is a fault of fastdc; --debug shows where.", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def run() -> None:
    """The console script: as `main`, but an interrupted one ends at once, without waiting for networks in training."""
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if code > 128:
        os._exit(code)
    sys.exit(code)


@contextlib.contextmanager
def _among_processes() -> Iterator[None]:
    """Of several processes let the first alone speak, errors aside."""
    with contextlib.ExitStack() as stack:
        if not world().leads:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None
) -> None:
    print(f"fastdc: {message}", file=sys.stderr, flush=True)


def _raise_interrupted(signum: int, frame: FrameType | None) -> None:
    raise Interrupted("stopped; the same command again continues from the last checkpoint.", signum)
