"""The experiment `depth`: settings and run, figure, and claims."""
