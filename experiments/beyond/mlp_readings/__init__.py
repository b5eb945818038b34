"""experiments.beyond.mlp_readings."""
