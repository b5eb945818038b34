"""The experiment `byol`: settings and run, figure, and claims."""
