"""Installed recipes, one YAML file for a dataset, way, shot and head."""

if __name__ == "recipes":
    raise ImportError("import fewshot_cli.recipes, not recipes")
