"""The experiment `million`: settings and run, figure, and claims."""
