"""experiments.beyond.lars_steps."""
