"""experiments.beyond.ntk_evolution."""
