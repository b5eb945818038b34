"""experiments.fig7."""
