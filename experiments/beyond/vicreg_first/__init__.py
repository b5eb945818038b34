"""experiments.beyond.vicreg_first."""
