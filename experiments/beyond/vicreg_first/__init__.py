"""The experiment `vicreg_first`: settings and run, figure, and claims."""
