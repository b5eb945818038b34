"""The experiment `any_loss`: settings and run, figure, and claims."""
