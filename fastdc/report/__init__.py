"""Reports: what the folder of a run holds, as one HTML page that loads nothing.

A folder is read into plain values, missing parts becoming sentences; templates make a page of them, charts as inline SVG.
"""

from fastdc.report.write import NAME, accompany, write_comparison, write_report

__all__ = ["NAME", "accompany", "write_comparison", "write_report"]
