"""What the rows of all stages say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def table(folder: Path) -> None:
    """What the rows of all stages say, short enough for the end of an output."""
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    print("\n== results")
    for row in rows:
        if row["what"] == "stage":
            print(f"stage {row['stage']}: " + (f"rc {row['rc']}, {row['seconds']} s" if "rc" in row else f"skipped, {row['skipped']}"))
    failures = [row for row in rows if isinstance(row.get("error"), str)]
    for row in failures[:12]:
        print(f"FAILED {row['stage']}: {row['what']} {label_of(row)}: ... {' '.join(row['error'].split())[-160:]}")
    if failures[12:]:
        print(f"and {len(failures[12:])} more failures: results.jsonl has them")
    lines: dict[str, list[str]] = {}
    for row in rows:
        if row not in failures and "skipped" not in row and (cell := cell_of(row)):
            line = row["what"] + (f", ipc {row['ipc']}" if "ipc" in row else "")
            line += f", {row['classes']} classes" if row["stage"] == "distance" else ""
            line += f", {row['networks']} networks" if row["stage"] == "engines" and "networks" in row else ""
            lines.setdefault(line, []).append(f"{label_of(row)} {cell}")
    for line, cells in lines.items():
        print(f"{line}: " + " | ".join(cells))


def label_of(row: dict[str, Any]) -> str:
    """What tells a row from the others in its line of the table."""
    keys = ("arm", "precision", "block", "warps", "subject", "test") + (() if row["stage"] == "distance" else ("classes",))
    return " ".join(str(row[key]) for key in keys if row.get(key) not in (None, "float32"))


def cell_of(row: dict[str, Any]) -> str:
    if "accuracy_%" in row:
        return f"{row['accuracy_%']:.1f} +- {row['std_%']:.1f} %, {row['seconds']:.1f} s"
    if "seconds" in row and "rc" not in row:
        return f"{row['seconds']:.4g} s" + (f" of {row['iterations']}" if row["what"] == "condense" else "")
    if "forward_TFLOP/s" in row:
        rates = [f"{row[f'{name}_TFLOP/s']:.3g}" for name in ("forward", "by_weight", "by_weight_of_each_class")]
        return f"{'channels last ' * row['channels_last']}{' / '.join(rates)} TFLOP/s"
    for rate in ("TFLOP/s", "kernel_GB/s", "GB/s"):
        if rate in row:
            return f"{row.get('kernel_ms', row.get('event_ms', row['wall_ms'])):.3g} ms {row[rate]:.4g} {rate}"
    if "reserved_MiB" in row:
        return f"{row['reserved_MiB']:.0f} MiB"
    if "wall_ms" not in row:
        return ""
    text = f"{row.get('event_ms', row['wall_ms']):.4g} ms"
    return text + (f" ({row['kernel_ms']:.3g} in {row['launches']:.0f} kernels)" if "kernel_ms" in row else "")
