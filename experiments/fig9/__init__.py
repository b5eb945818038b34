"""experiments.fig9."""
