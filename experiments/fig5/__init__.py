"""The experiment `fig5`: settings and run, figure, and claims."""
