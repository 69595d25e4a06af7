"""What `fewshot_cli` offers to Python programs; its names are imported from `fewshot_cli` itself."""
