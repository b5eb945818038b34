"""experiments.beyond.infinite_width."""
