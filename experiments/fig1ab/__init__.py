"""The experiment `fig1ab`: settings and run, figure, and claims."""
