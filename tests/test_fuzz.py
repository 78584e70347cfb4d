"""Files altered at random, of every kind that is read, are read or refused in a sentence (`tests/fuzz.py`)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import fuzz
import pytest
from helpers import ROOT, run_apart

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the mutations are read in forked processes")
EACH = 80  # mutations of each format


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the command prints, all formats in one call."""
    kept = tmp_path_factory.mktemp("kept")
    command = [sys.executable, str(ROOT / "tests" / "fuzz.py"), "--mutations", str(EACH * len(fuzz.FORMATS)), "--limit", "5"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*command, "--kept", str(kept)], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert not done.stderr, done.stderr[-2000:]
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", fuzz.FORMATS)
def test_altered_files_are_read_or_refused_in_a_sentence(report: list[str], name: str) -> None:
    (counts,) = [line for line in report if line.split()[0] == name]
    assert [line for line in report if line.startswith(f"FAULT {name} ")] == []
    assert counts.split()[1] == str(EACH)
    assert "read " in counts


FAULTS = {
    "refuse": None,
    "say_nothing": "names no file",
    "lambda file: {}['a']": "KeyError",
    "lambda file: [None for _ in iter(int, 1)]": "takes longer than 0.5 s",
    "lambda file: time.sleep(99)": r"the process died of it \(exit 1\): Timeout",
    "lambda file: (file.parent.parent / 'stray').write_text('x')": "open of .*stray",
    "lambda file: os.utime(file.parent.parent / 'canary' / 'file')": "changed outside",
    "lambda file: os.system('true')": "os.system",
    "lambda file: bytearray(b'x') * (1 << 27)": "memory grew by 1[0-9]{2} MB",
    "lambda file: os.abort()": r"the process died of it \(signal SIGABRT\)",
}
CATCH = f"""
import json, os, time
from pathlib import Path
import fuzz

def make(folder):
    (folder / "file").write_bytes(bytes(100))
    return [folder / "file"]

def changed(read):
    return lambda file: file.read_bytes() == bytes(100) or read(file)

def refuse(file):
    raise fuzz.fastdc.DataError(f"{{file}} is no file.")

def say_nothing(file):
    raise fuzz.fastdc.DataError("no.")

for name in {list(FAULTS)!r}:
    fuzz.FORMATS["x"] = fuzz.Format(make, changed(eval(name)))
    result = fuzz.fuzz("x", range(2), limit=0.5, megabytes=100, kept=Path("kept"))
    kept = [path.read_bytes() != bytes(100) and path.unlink() for path in Path("kept").glob("*")]
    print(json.dumps([sorted(result.faults.items()), result.outcomes.total(), len(kept)]))
"""


def test_what_is_no_refusal_in_a_sentence_is_found_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_apart(CATCH, 120)
    assert done.returncode == 0, done.stderr
    for (reader, fault), line in zip(FAULTS.items(), done.stdout.splitlines(), strict=True):
        found, total, kept = json.loads(line)
        assert (len(found), total, kept) == (2 if fault else 0, 2, 2 if fault else 0), reader
        assert all(re.search(fault or "", text) for _, text in found), (reader, found)


def test_a_mutation_follows_from_seed_format_and_number_alone(tmp_path: Path) -> None:
    format = fuzz.FORMATS["outcome"]
    good = {file: file.read_bytes() for file in format.make(tmp_path)}
    first, again, other = (fuzz.mutation(format, "outcome", 7, seed, good) for seed in (1, 1, 2))
    assert first == again != other
