"""Result files: bench/results/NAME.json holds the rows that one command gave, with the machine that it ran on.

    python bench/record.py NAME fastdc COMMAND ...

runs a command of fastdc and keeps what it reports: the cells of `table`, `continual` and `search`, or the evaluations of `condense`. The
benchmarks write files of the same form (bench/conftest.py); `python bench/tables.py` makes the tables of the documents from them.
"""

from __future__ import annotations

import csv
import datetime
import json
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]


def machine() -> dict[str, Any]:
    """Where figures come from: the processor and the card, and the versions of all that they depend on."""
    import torch

    import fastdc
    from fastdc.runtime.compiled import BUILD
    from fastdc.runtime.versions import processor

    return {
        "cpu": f"{processor()} ({torch.backends.cpu.get_cpu_capability()})",
        "threads": torch.get_num_threads(),
        **({"card": torch.cuda.get_device_name(), "cuda": torch.version.cuda} if torch.cuda.is_available() else {}),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fastdc": fastdc.__version__,
        "commit": commit(),
        "compiler": BUILD.get("compiler", "none"),
    }


def commit() -> str | None:
    """The commit of this tree, with -dirty where files other than results differ from it; None outside git."""

    def git(*command: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *command], capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results")
        return git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def rounded(value: Any) -> Any:
    """Floats to five digits, wherever they stand."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value


def write(file: Path, command: str, rows: Sequence[Row], **further: Any) -> None:
    """Write a result file, a line for each row."""
    head = {"command": command, "date": datetime.date.today().isoformat(), "machine": machine(), **further}
    lines = [json.dumps({key: rounded(value) for key, value in row.items()}) for row in rows]
    text = json.dumps(head, indent=2).removesuffix("\n}") + ',\n  "rows": [\n    ' + ",\n    ".join(lines) + "\n  ]\n}\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def reported(folder: Path) -> list[Row]:
    """The rows of table.csv, or of evaluation.json, in the folder of a run; accuracies in percent."""
    if (folder / "table.csv").exists():
        with (folder / "table.csv").open(newline="") as file:
            return [{key: number(value) for key, value in row.items() if value != ""} for row in csv.DictReader(file)]
    results: Mapping[str, Any] = json.loads((folder / "evaluation.json").read_text())["results"]
    return [
        {"subject": subject, "mean": 100 * found["mean"], "std": 100 * found["std"], "networks": len(found["accuracies"])}
        for subject, found in results.items()
    ]


def number(text: str) -> Any:
    """A field of a CSV file as the number that it is, or as text."""
    try:
        return int(text) if re.fullmatch(r"-?\d+", text) else float(text)
    except ValueError:
        return text


def main(arguments: Sequence[str]) -> int:
    """Run the command, keep its rows."""
    if len(arguments) < 3 or arguments[1] != "fastdc":
        print(__doc__, file=sys.stderr)
        return 2
    name, words = arguments[0], list(arguments[1:])
    command = shlex.join(words)
    if "--out" not in words:
        words += ["--out", f"runs/{name}"]
    folder = Path(words[words.index("--out") + 1])
    if folder.exists():
        print(f"{folder} is there already, and a run that is continued takes less time; name a new folder with --out.", file=sys.stderr)
        return 2
    started = time.monotonic()
    code = subprocess.run([sys.executable, "-m", *words]).returncode
    if code == 0:
        write(RESULTS / f"{name}.json", command, reported(folder), seconds=round(time.monotonic() - started, 1))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
