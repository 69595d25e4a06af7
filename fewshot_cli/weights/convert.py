"""Conversion of foreign checkpoints to our weights format."""

from pathlib import Path
from typing import Any

from fewshot_cli import registry
from fewshot_cli.config.load import load_recipe
from fewshot_cli.errors import DataError, FslError
from fewshot_cli.weights import foreign
from fewshot_cli.weights.checkpoint import Checkpoint, _read, save, sidecar_of

RECIPE = "mini_imagenet_5w1s"  # proposed for trying imported weights: the dataset most of the authors' are of


def convert(path: Path, out: Path, expected: str | None, force: bool) -> dict[str, Any]:
    """Write a foreign state dict of a backbone in our weights format, and report on it.

    Raises `FslError` for an `out` that must not be written, `DataError` for a file that is not of a known backbone.
    """
    if out.suffix != ".safetensors":
        raise FslError(f"{out}: must end in .safetensors; write -o {out.with_suffix('.safetensors')}")
    if there := next((p for p in (out, sidecar_of(out)) if p.exists() and not force), None):
        raise FslError(f"{there}: already exists; give another name, or --force to replace it")
    if expected is not None:
        registry.backbone(expected)
    raw = _read(path)
    translated = foreign.translate(raw.tensors, path)
    if expected not in (None, translated.backbone):
        raise DataError(f"{path}: these are weights of {translated.backbone}, not of {expected}; leave out --backbone")
    cls = registry.backbone(translated.backbone)
    module = cls(cls.Options(**translated.options))
    spec = {"name": translated.backbone, **translated.options}
    tensors = {f"backbone.{k}": v for k, v in translated.tensors.items()}
    Checkpoint(tensors, {"backbone": spec}, raw.sha256, path).fill(
        module, "backbone", f"backbone {translated.backbone}"
    )
    digest = save(
        out,
        {"backbone": module},
        {
            "stage": "import",
            "backbone": spec,
            "source": {"name": path.name, "sha256": raw.sha256},
            "left_out": translated.left_out,
            "licence": "the weights keep the terms of their authors; see where the source comes from",
        },
    )
    count = sum(p.numel() for p in module.parameters())
    return {"path": str(out), "sha256": digest, "backbone": spec, "parameters": count, "left_out": translated.left_out}


def evaluation(weights: Path, backbone: dict[str, Any]) -> str:
    """The `fsl eval` command for imported weights, which names the backbone where it is not the recipe's."""
    name, options = backbone["name"], {key: value for key, value in backbone.items() if key != "name"}
    known = load_recipe(RECIPE).backbone
    command = f"fsl eval --recipe {RECIPE} --weights {weights}"
    if name == known.name and registry.backbone(name).Options(**options) == known.options:
        return command
    inside = ", ".join(f"{key}: {value}" for key, value in backbone.items())
    return f"{command} --set 'backbone={{{inside}}}'"
