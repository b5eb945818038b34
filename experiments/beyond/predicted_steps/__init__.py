"""experiments.beyond.predicted_steps."""
