"""The experiment `width_sweep`: settings and run, figure, and claims."""
