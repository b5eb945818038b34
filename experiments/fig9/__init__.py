"""The experiment `fig9`: settings and run, figure, and claims."""
