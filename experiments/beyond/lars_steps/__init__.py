"""The experiment `lars_steps`: settings and run, figure, and claims."""
