"""What a picture's local features are to a class: which proxy each goes to (Multi-Proxy Wasserstein Classifier,
Visualization).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewshot_cli import build, registry, transport
from fewshot_cli.classification import load_parts, trained
from fewshot_cli.contracts import Proxied
from fewshot_cli.errors import DataError, RecipeError
from fewshot_cli.features import normalise
from fewshot_cli.match import shown
from fewshot_cli.pictures import Pictures
from fewshot_cli.plots import correspondences
from fewshot_cli.schema import Recipe

LIKELIEST = 3


@dataclass(frozen=True)
class Row:
    """One class: the picture [3,S,S] in [0,1], of each position's mass the share each proxy gets [h,w,M], what each
    proxy adds to the logit [M], and the words beside it.
    """

    picture: Tensor
    mass: Tensor
    parts: Tensor
    title: str

    def strongest(self) -> Tensor:
        """The proxy that each position gives most of its mass to [h,w]."""
        return self.mass.argmax(2)

    def shares(self) -> Tensor:
        """Shares of the logit [M], with total one; a proxy that speaks against the class has a share of the other sign.
        All are zero where the logit is.
        """
        total = self.parts.sum()
        return self.parts / total if total != 0 else torch.zeros_like(self.parts)


@torch.no_grad()
def correspond(
    recipe: Recipe, picture: Path, chosen: list[str], out: Path, given: Path | None, root: Path, device: torch.device
) -> list[dict[str, Any]]:
    """Draw which proxy each position of a picture goes to, for its likeliest classes or those chosen; a record a class.

    Raises `RecipeError` for a classifier without proxies, `DataError` for an unknown class or more than one picture.
    """
    spec = recipe.pretrain.classifier
    if not issubclass(registry.part("classifiers", spec.name), Proxied):
        raise RecipeError(
            f"recipe {recipe.name} has classifier {spec.name}, which has no proxies to draw; use a recipe with "
            "classifier multi_proxy, such as cifar100_resnet20_mpw"
        )
    pictures = Pictures([picture])
    if len(pictures) != 1:
        raise DataError(f"{picture}: holds {len(pictures)} pictures; give one picture file")
    weights = trained(recipe, given)
    names = weights.checkpoint.sidecar.get("classes") or build.store(recipe, root).split(recipe.eval.split).classes
    for name in chosen:
        if name not in names:
            raise DataError(
                f"--class {name}: is none of the {len(names)} classes of {weights.label}"
                f"{registry.did_you_mean(name, names)}"
            )
    backbone, classifier = load_parts(recipe, weights, len(names), device)
    backbone, classifier = backbone.to(device, memory_format=torch.channels_last).eval(), classifier.eval()
    decoded = pictures.decode(recipe.image.decoded, recipe.dataset.crop)[0]
    views = normalise(decoded.to(device), recipe.image)
    maps = backbone(views.contiguous(memory_format=torch.channels_last)).float()
    with transport.ledger() as book:
        flow, weighed = (x[0].cpu() for x in classifier.matched(maps))  # [classes,HW,M]
    parts = classifier.options.scale * (flow * weighed).sum(1)
    logits = parts.sum(1)
    if not torch.isfinite(logits).all():
        raise DataError(f"{picture}: NaN or infinite logits; check the weights")
    probability, failed = logits.softmax(0), ~torch.cat(book.converged).cpu()
    likeliest = logits.argsort(descending=True, stable=True)[:LIKELIEST].tolist()
    seen = shown(recipe, pictures, [0])[0][0]
    records, rows = [], []
    for c in [names.index(name) for name in dict.fromkeys(chosen)] or likeliest:
        title = f"{names[c]}\n{100 * float(probability[c]):.1f} %, logit {float(logits[c]):.2f}"
        mass = (flow[c] / flow[c].sum(1, keepdim=True)).unflatten(0, maps.shape[2:])
        rows.append(Row(seen, mass, parts[c], title))
        records.append(
            {
                "class": names[c],
                "probability": float(probability[c]),
                "logit": float(logits[c]),
                "shares": rows[-1].shares().tolist(),
                "not_converged": int(failed[c]),
            }
        )
    correspondences(out, rows)
    return records
