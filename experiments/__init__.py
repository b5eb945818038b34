"""One driver for each figure or table of the paper, run as ``python -m experiments run NAME``."""
