"""experiments.beyond.speedup."""
