"""Weights: safetensors with a sidecar, where they are found, and the layouts of foreign checkpoints."""
