"""The experiment `fig2ab`: settings and run, figure, and claims."""
