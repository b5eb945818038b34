"""experiments.fig8."""
