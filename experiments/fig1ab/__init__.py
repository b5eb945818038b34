"""experiments.fig1ab."""
