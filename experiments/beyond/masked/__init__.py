"""experiments.beyond.masked."""
