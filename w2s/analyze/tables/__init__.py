"""Rows and cells in, what a reader is shown out, in the formats of files and of a terminal."""
