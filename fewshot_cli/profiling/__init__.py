"""Time, memory and complexity of solvers, training steps and networks."""
