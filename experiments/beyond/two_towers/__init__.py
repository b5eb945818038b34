"""The experiment `two_towers`: settings and run, figure, and claims."""
