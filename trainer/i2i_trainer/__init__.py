"""Train image-to-image generators in PyTorch."""
