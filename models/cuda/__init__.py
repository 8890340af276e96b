"""Passes on NVIDIA GPUs: noise by a kernel of this project's own, h as a CUDA graph."""
