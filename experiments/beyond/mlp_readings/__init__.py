"""The experiment `mlp_readings`: settings and run, figure, and claims."""
