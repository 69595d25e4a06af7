"""Transport solvers, one file each."""

if __name__ == "solvers":
    raise ImportError("import fewshot_cli.solvers, not solvers")
