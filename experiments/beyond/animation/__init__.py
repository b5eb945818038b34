"""The experiment `animation`: settings and run, figure, and claims."""
