"""The command `fastdc`, also called by `python -m fastdc`. Only it needs tyro, which reads the arguments."""

from __future__ import annotations

import sys


def run() -> None:
    """Run the command line; says how to install tyro where it is missing."""
    try:
        from fastdc.cli import run as run_command
    except ModuleNotFoundError as error:
        if error.name != "tyro":
            raise
        print("fastdc: the command line needs tyro, which is not installed; pip install tyro brings it.", file=sys.stderr)
        sys.exit(2)
    run_command()


if __name__ == "__main__":
    run()
