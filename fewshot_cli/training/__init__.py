"""Pre-training and meta-training on one loop."""
