"""The tables of the paper: defined as rows and columns of cells, done cell by cell by any number of processes, and written."""

from fastdc.tables.definitions import TABLES
from fastdc.tables.make import TableConfig, make_table
from fastdc.tables.report import FilledTable
from fastdc.tables.scale import SCALES, Scale

__all__ = ["SCALES", "TABLES", "FilledTable", "Scale", "TableConfig", "make_table"]
