"""Where a command's weights come from: the one grammar of `--weights` and of a recipe's `weights`.

A shipped or installed name; a file; `own`, what the backbone brings; `none`, random ones; `hf:OWNER/NAME[@REVISION]
[:FILE]` from the Hugging Face hub; `timm:MODEL`, what timm has for one of its models.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fewshot_cli import registry
from fewshot_cli.config.parts import build_backbone
from fewshot_cli.config.schema import OWN, Recipe
from fewshot_cli.contracts import Backbone
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.console import say
from fewshot_cli.runtime.runs import newest_finished
from fewshot_cli.weights import checkpoint, hub, installed

NONE, HUB, TIMM = "none", "hf:", "timm:"


@dataclass(frozen=True)
class FoundWeights:
    """Where a verb's weights come from, with the loaded checkpoint."""

    label: str
    checkpoint: checkpoint.Checkpoint

    @property
    def random(self) -> bool:
        """Whether they were drawn, not trained."""
        return self.label == NONE


def find_weights(
    recipe: Recipe, given: Path | None, stages: tuple[str, ...] = ("metatrain", "pretrain")
) -> FoundWeights:
    """`--weights`, else the recipe's, as the grammar says; else the newest finished training run in `runs/`, else the
    shipped weights of its pre-training.

    `stages` are the training verbs whose runs count, best first. Raises `DataError` with the command to type next.
    """
    if given is not None:
        return find_named(recipe, str(given))
    name = recipe.start if stages == ("pretrain",) else recipe.weights or recipe.name
    if (found := _from_elsewhere(recipe, name)) is not None:
        return found
    if name in installed.names() and "metatrain" in stages:
        return _installed(name)
    for stage in stages:
        if (run := newest_finished(stage, name)) is not None:
            path = run / "weights.safetensors"
            say(f"weights: {path}")
            return FoundWeights(str(path), checkpoint.load(path))
    if f"{name}_pretrain" in installed.names():
        return _installed(f"{name}_pretrain")
    if name in installed.BESIDE:
        raise DataError(
            f"recipe {recipe.name}: its weights {name} are in the package fewshot-cli-weights, which is not installed; "
            "pip install 'fewshot-cli[weights]' (in a checkout: pip install ./weights), or train your own "
            f"(fsl pretrain --recipe {recipe.name}), or give --weights"
        )
    todo = "pretrain" if stages == ("pretrain",) else "pretrain and metatrain"
    raise DataError(
        f"no weights for recipe {recipe.name}: no installed package provides {name} and runs/ holds no finished run; "
        f"{todo} first (fsl pretrain --recipe {recipe.name}) or give --weights; `fsl weights list` shows what there is"
    )


def find_named(recipe: Recipe, given: str) -> FoundWeights:
    """The weights that a text means, for a recipe's backbone. Raises `DataError` when there are none."""
    if (found := _from_elsewhere(recipe, given)) is not None:
        return found
    return _installed(given) if _is_installed(given) else FoundWeights(given, checkpoint.load(named(Path(given))))


def of_module(module: nn.Module, name: str) -> FoundWeights:
    """The weights that a module of this name has."""
    tensors = {f"backbone.{key}": value for key, value in module.state_dict().items()}
    return FoundWeights(name, checkpoint.of_tensors(tensors, {"saw": ["unknown"]}, Path(name)))


def named(given: Path) -> Path:
    """The file that `--weights` means: a path, or the name of installed weights."""
    return installed.file(given.name) if _is_installed(str(given)) else Path(os.path.expanduser(given))


def _is_installed(given: str) -> bool:
    """Whether a text names installed weights; a file that is called so comes first."""
    return given in installed.names() and not Path(os.path.expanduser(given)).is_file()


def _installed(name: str) -> FoundWeights:
    return FoundWeights(installed.label(name), checkpoint.load(installed.file(name)))


def _from_elsewhere(recipe: Recipe, text: str) -> FoundWeights | None:
    """Weights that are neither a file nor installed by name; None where the text names none of these."""
    if text == OWN:
        return _own(build_backbone(recipe), f"{OWN}:{recipe.backbone.name}")
    if text == NONE:
        return _random(recipe)
    if text.startswith(HUB):
        path, source = hub.fetch(text.removeprefix(HUB))
        return FoundWeights(source, checkpoint.load(path))
    if text.startswith(TIMM):
        if recipe.backbone.name != "timm":
            raise DataError(
                f"--weights {text}: recipe {recipe.name} has backbone {recipe.backbone.name}; timm's weights "
                "fit backbone timm (--set backbone=timm --set backbone.model=NAME)"
            )
        options = recipe.backbone.options.model_copy(update={"model": text.removeprefix(TIMM), "pretrained": True})
        return _own(registry.backbone("timm")(options), text)
    return None


def _own(backbone: Backbone[Any], label: str) -> FoundWeights:
    own = backbone.own_weights()
    sidecar = {
        "source": own.source,
        "licence": own.licence,
        "saw": list(own.saw),
        "image": type(backbone).preprocessing(backbone.options),
    }
    tensors = {f"backbone.{key}": value for key, value in own.tensors.items()}
    return FoundWeights(label, checkpoint.of_tensors(tensors, sidecar, Path(own.source)))


def _random(recipe: Recipe) -> FoundWeights:
    """Fresh weights of the recipe's backbone, drawn from its seed; a head keeps its own, drawn after them."""
    tensors = {f"backbone.{key}": value for key, value in build_backbone(recipe).state_dict().items()}
    say("note: the weights are random")
    return FoundWeights(NONE, checkpoint.of_tensors(tensors, {"saw": []}, Path("random weights")))
