"""experiments.beyond.million."""
