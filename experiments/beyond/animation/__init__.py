"""experiments.beyond.animation."""
