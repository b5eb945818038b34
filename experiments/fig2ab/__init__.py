"""experiments.fig2ab."""
