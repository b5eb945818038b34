"""The experiment `noise`: settings and run, figure, and claims."""
