"""The experiment `predicted_steps`: settings and run, figure, and claims."""
