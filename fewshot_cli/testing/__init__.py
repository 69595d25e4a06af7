"""Contract suites for solvers and other parts, shipped so that an author of a plug-in can run them."""
