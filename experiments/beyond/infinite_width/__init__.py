"""The experiment `infinite_width`: settings and run, figure, and claims."""
