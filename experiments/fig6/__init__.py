"""The experiment `fig6`: settings and run, figure, and claims."""
