"""Rows in, estimates with intervals out: cells over seeds, medians over tasks, methods against each other."""
