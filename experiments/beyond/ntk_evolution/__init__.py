"""The experiment `ntk_evolution`: settings and run, figure, and claims."""
