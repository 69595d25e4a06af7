"""The default solver: a batched network simplex on the CPU and the GPU."""
