"""Side-by-side timings against named peers, each a ratio in one run: `make bench`."""
