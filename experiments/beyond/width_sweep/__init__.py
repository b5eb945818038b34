"""experiments.beyond.width_sweep."""
