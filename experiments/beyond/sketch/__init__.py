"""experiments.beyond.sketch."""
