"""experiments.beyond.dose."""
