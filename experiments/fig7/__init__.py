"""The experiment `fig7`: settings and run, figure, and claims."""
