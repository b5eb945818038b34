"""The experiment `tables`: settings and run, figure, and claims."""
