"""Experiments, one for each figure or table: ``python -m experiments run NAME``."""
