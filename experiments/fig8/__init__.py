"""The experiment `fig8`: settings and run, figure, and claims."""
