"""experiments.fig6."""
