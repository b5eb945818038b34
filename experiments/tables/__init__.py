"""experiments.tables."""
