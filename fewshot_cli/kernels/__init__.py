"""Vectors, compilation and threads for the compiled kernels of solvers and heads."""
