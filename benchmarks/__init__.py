"""The benchmarks that produce the figures in the README."""
