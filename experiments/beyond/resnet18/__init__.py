"""experiments.beyond.resnet18."""
