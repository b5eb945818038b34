"""experiments.fig3_4."""
