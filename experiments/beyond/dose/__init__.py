"""The experiment `dose`: settings and run, figure, and claims."""
