"""experiments.fig5."""
