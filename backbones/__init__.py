"""Backbones: images to maps of local features, one file per family."""

if __name__ == "backbones":
    raise ImportError("import fewshot_cli.backbones, not backbones")
