"""experiments.beyond.depth."""
