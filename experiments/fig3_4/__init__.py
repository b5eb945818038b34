"""The experiment `fig3_4`: settings and run, figure, and claims."""
