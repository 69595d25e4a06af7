"""How an image's local features match a class: which proxy each goes to (Multi-Proxy Wasserstein Classifier,
Visualization).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewshot_cli import registry, transport
from fewshot_cli.config.schema import Recipe
from fewshot_cli.contracts import Proxied
from fewshot_cli.data.user_images import LooseImages
from fewshot_cli.errors import DataError, RecipeError
from fewshot_cli.evaluation.classification import ClassModel
from fewshot_cli.features.preprocess import normalise
from fewshot_cli.figures.canvas import save
from fewshot_cli.figures.matching import shown
from fewshot_cli.runtime.processes import Processes

LIKELIEST = 3


@dataclass(frozen=True)
class Row:
    """One class: the image [3,S,S] in [0,1], of each position's mass the share each proxy gets [h,w,M], what each
    proxy adds to the logit [M], and the words beside it.
    """

    image: Tensor
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
    recipe: Recipe, image: Path, chosen: list[str], out: Path, given: Path | None, root: Path, device: torch.device
) -> list[dict[str, Any]]:
    """Draw which proxy each position of an image goes to, for the likeliest or the chosen classes; a record per class.

    Raises `RecipeError` for a classifier without proxies, `DataError` for an unknown class or more than one image.
    """
    spec = recipe.pretrain.classifier
    if not issubclass(registry.classifier(spec.name), Proxied):
        raise RecipeError(
            f"recipe {recipe.name} has classifier {spec.name}, which has no proxies to draw; use a recipe with "
            f"classifier {' or '.join(registry.able('classifiers', Proxied))}, such as cifar100_resnet20_mpw"
        )
    images = LooseImages([image], recipe.image)
    if len(images) != 1:
        raise DataError(f"{image}: holds {len(images)} images; give one image file")
    model = ClassModel.open(recipe, root, Processes(device), given)
    names = model.classes
    for name in chosen:
        if name not in names:
            raise DataError(
                f"--class {name}: is none of the {len(names)} classes of {model.weights.label}"
                f"{registry.did_you_mean(name, names)}"
            )
    decoded = images.decode(recipe.image.decoded, recipe.dataset.crop)[0]
    views = normalise(decoded.to(device), recipe.image)
    maps = model.backbone(views.contiguous(memory_format=torch.channels_last)).float()
    assert isinstance(model.classifier, Proxied)  # its class is, see above
    with transport.ledger() as ledger:
        flow, parts = (x[0].cpu() for x in model.classifier.matched(maps))  # [classes,HW,M] and [classes,M]
    logits = parts.sum(1)
    if not torch.isfinite(logits).all():
        raise DataError(f"{image}: NaN or infinite logits; check the weights")
    probability, failed = logits.softmax(0), ~torch.cat(ledger.converged).cpu()
    likeliest = logits.argsort(descending=True, stable=True)[:LIKELIEST].tolist()
    seen = shown(recipe, images, [0])[0][0]
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


MAPS = 8  # heat maps in a row, of a class with more proxies those that count most


def correspondences(path: Path, rows: list) -> None:
    """A line for each `Row`: the image, its positions in the colour of the proxy that gets most of
    each, and for each proxy a map of what it gets of every position's mass, titled with its share of the logit.

    Raises `DataError` when the file cannot be written.
    """
    plt = _pyplot()
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch

    most = max(len(r.parts) for r in rows)
    colours = ListedColormap([plt.get_cmap("tab10" if most <= 10 else "tab20")(m % 20) for m in range(most)])
    shown = [sorted(r.parts.abs().argsort(descending=True)[:MAPS].tolist()) for r in rows]
    columns = 2 + max(map(len, shown))
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(1.9 * columns + 0.8, 2.4 * len(rows) + 0.4), squeeze=False, layout="constrained"
    )
    for line, row, picked in zip(axes, rows, shown, strict=True):
        side = row.image.shape[-1]
        for axis in line:
            axis.imshow(row.image.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        over = {"extent": (-0.5, side - 0.5, side - 0.5, -0.5), "interpolation": "nearest", "alpha": 0.6}
        line[0].set_title(row.title, fontsize=9)
        line[1].set_title("most mass to", fontsize=9)
        line[1].imshow(row.strongest().numpy(), cmap=colours, norm=BoundaryNorm(range(most + 1), most), **over)
        for axis, m, share in zip(line[2:], picked, row.shares()[picked].tolist(), strict=True):
            heat = axis.imshow(row.mass[..., m].numpy(), cmap="inferno", vmin=0, vmax=1, **over)
            axis.set_title(f"proxy {m + 1}: {100 * share:.0f} % of logit", fontsize=9)
    named = sorted(
        {m for row, picked in zip(rows, shown, strict=True) for m in [*picked, *row.strongest().unique().tolist()]}
    )
    figure.legend(
        handles=[Patch(color=colours(m), label=f"proxy {m + 1}") for m in named],
        frameon=False,
        fontsize=8,
        ncols=MAPS,
        loc="outside lower center",
    )
    figure.colorbar(heat, ax=axes[:, 2:], label="share of a position's mass", fraction=0.02)
    save(path, figure)
