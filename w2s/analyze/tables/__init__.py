"""Rows and cells in, what a reader is shown out, in the formats of files."""

from w2s.analyze.tables.exports import cells_csv, cells_parquet, medians_csv, rows_csv, rows_parquet
from w2s.analyze.tables.latex import latex
from w2s.analyze.tables.markdown import markdown

__all__ = ["cells_csv", "cells_parquet", "latex", "markdown", "medians_csv", "rows_csv", "rows_parquet"]
