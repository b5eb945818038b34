"""experiments.beyond.two_towers."""
