"""The experiment `speedup`: settings and run, figure, and claims."""
