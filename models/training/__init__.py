"""Training with noise: data sets, recipes and the loop."""
