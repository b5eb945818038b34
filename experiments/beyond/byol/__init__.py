"""experiments.beyond.byol."""
