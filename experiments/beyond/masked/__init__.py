"""The experiment `masked`: settings and run, figure, and claims."""
