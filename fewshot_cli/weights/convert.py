"""Conversion of foreign checkpoints to our weights format."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fewshot_cli import registry
from fewshot_cli.config.load import default_part, load_recipe
from fewshot_cli.config.parts import build_head, default_solver
from fewshot_cli.errors import DataError
from fewshot_cli.weights import foreign
from fewshot_cli.weights.checkpoint import Checkpoint, _read, refuse_output, save

RECIPE = "mini_imagenet_5w1s"  # proposed for trying imported weights: the dataset most of the authors' are of


def convert(path: Path, out: Path, expected: str | None, force: bool) -> dict[str, Any]:
    """Write a foreign state dict of a backbone in our weights format, and report on it.

    Raises `FslError` for an `out` that must not be written, `DataError` for a file that is not of a known backbone.
    """
    refuse_output(out, force)
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
    modules: dict[str, nn.Module] = {"backbone": module}
    parts, left_out = {"backbone": spec}, translated.left_out
    if (head := foreign.head_of(raw.tensors, left_out)) is not None:
        name, named, keys = head
        parts["head"], modules["head"] = {"name": name}, _filled_head(name, named, module.channels, raw)
        left_out = [key for key in left_out if key not in keys]
    digest = save(
        out,
        modules,
        {
            "stage": "import",
            **parts,
            "source": {"name": path.name, "sha256": raw.sha256},
            "left_out": left_out,
            "licence": "the weights keep the terms of their authors; see where the source comes from",
        },
    )
    count = sum(p.numel() for part in modules.values() for p in part.parameters())
    return {"path": str(out), "sha256": digest, **parts, "parameters": count, "left_out": left_out}


def _filled_head(name: str, tensors: dict[str, Tensor], channels: int, raw: Checkpoint) -> nn.Module:
    """A head with default options and these tensors. Raises `DataError` where they are of another size."""
    head = build_head(default_part("heads", name), channels, default_solver())
    named = {f"head.{key}": tensor for key, tensor in tensors.items()}
    Checkpoint(named, {"head": {"name": name}}, raw.sha256, raw.path).fill(head, "head", f"head {name}")
    return head


def evaluation(weights: Path, backbone: dict[str, Any], head: dict[str, Any] | None = None) -> str:
    """The `fsl eval` command for imported weights, which names the backbone where it is not the recipe's, and the head
    whose tensors were there too.
    """
    name, options = backbone["name"], {key: value for key, value in backbone.items() if key != "name"}
    known = load_recipe(RECIPE).backbone
    command = f"fsl eval --recipe {RECIPE} --weights {weights}" + (f" --set head={head['name']}" if head else "")
    if name == known.name and registry.backbone(name).Options(**options) == known.options:
        return command
    inside = ", ".join(f"{key}: {value}" for key, value in backbone.items())
    return f"{command} --set 'backbone={{{inside}}}'"
