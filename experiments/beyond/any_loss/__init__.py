"""experiments.beyond.any_loss."""
