"""The tables of the paper: defined as rows and columns of cells, done cell by cell by any number of processes, and written."""

from fastdc.experiments.tables.definitions import TABLES
from fastdc.experiments.tables.make import TableConfig, make_table
from fastdc.experiments.tables.report import FilledTable
from fastdc.experiments.tables.scale import SCALES, Scale

__all__ = ["SCALES", "TABLES", "FilledTable", "Scale", "TableConfig", "make_table"]
