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
from fewshot_cli.figures import layout, style
from fewshot_cli.figures.canvas import new, save, styled
from fewshot_cli.figures.layout import EDGE, LINE, Spot, caption
from fewshot_cli.figures.matching import shown
from fewshot_cli.figures.style import plain
from fewshot_cli.runtime.processes import Processes

LIKELIEST = 3


@dataclass(frozen=True)
class Row:
    """One class: the image [3,H,W] in [0,1], of each position's mass the share each proxy gets [h,w,M], what each
    proxy adds to the logit [M], and the words below it.
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
    seen = shown(recipe, images, 0)[0]
    records, rows = [], []
    for c in [names.index(name) for name in dict.fromkeys(chosen)] or likeliest:
        title = f"{plain(names[c])}\n{100 * float(probability[c]):.1f} %, logit {float(logits[c]):.2f}"
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
    correspondences(out, rows, f"{recipe.name}: {image.name}")
    return records


MAPS = 8  # heat maps of a class, of one with more proxies those that count most
ACROSS = 4  # of them beside each other
SIDE, GAP, FOOT = 1.05, 0.1, 0.45  # inches of an image's longer side, between images, and of the legend
OTHERS = "#bfbfbf"  # the colour of proxies that are none of those that count most


def correspondences(path: Path, rows: list[Row], title: str = "") -> None:
    """Write what `draw` draws. Raises `DataError` when the file cannot be written."""
    save(path, draw(rows, title))


@styled
def draw(rows: list[Row], title: str = "") -> Any:
    """For each `Row` the image, its positions in the colour of the proxy that gets most of each, and for each proxy a
    map of what it gets of every position's mass, with its share of the logit below. Returns a Matplotlib figure.
    """
    picked = [sorted(row.parts.abs().argsort(descending=True)[:MAPS].tolist()) for row in rows]
    across = min(ACROSS, max(map(len, picked)))
    width = max(2 * EDGE + (2 + across) * (SIDE + GAP) - GAP, 5.2)
    colours = _colours(rows, picked)
    words = [[caption(text, SIDE) for text in _captions(row, own)] for row, own in zip(rows, picked, strict=True)]
    below = [0.07 + LINE * max(map(len, texts)) for texts in words]
    high = layout.fitted(rows[0].image, SIDE)[1]
    most = max(float(row.mass[..., own].max()) for row, own in zip(rows, picked, strict=True))
    lines = [-(-len(own) // ACROSS) for own in picked]
    over = layout.heading_height(title, width)
    tall = sum(count * (high + under + GAP) for count, under in zip(lines, below, strict=True))
    drawn = new(width, over + tall + FOOT + 0.18 * -(-len(colours) // 5))
    layout.heading(drawn, title)
    top = drawn.get_figheight() - over
    for row, own, texts, under, count in zip(rows, picked, words, below, lines, strict=True):
        pitch = high + under + GAP
        for place, lines_below in enumerate(texts):
            line, column = divmod(place - 2, ACROSS) if place >= 2 else (0, place - 2)
            wide = layout.fitted(row.image, SIDE)[0]
            x, y = EDGE + (2 + column) * (SIDE + GAP), top - line * pitch
            axes = layout.axes_at(drawn, Spot(x + (SIDE - wide) / 2, y - high, wide, high))
            layout.show(axes, row.image)
            _lay_over(axes, row, own, place, colours, most)
            layout.write_caption(drawn, x + SIDE / 2, y - high - 0.05, lines_below)
        top -= count * pitch
    _legend(drawn, colours, most)
    return drawn


def _colours(rows: list[Row], picked: list[list[int]]) -> dict[int, str]:
    """The colours of the proxies that are drawn, by number: a palette's for those that count most over all classes."""
    shown = {m for row, own in zip(rows, picked, strict=True) for m in [*own, *row.strongest().unique().tolist()]}
    count = {m: sum(float(row.parts[m].abs()) for row in rows if m < len(row.parts)) for m in sorted(shown)}
    most = sorted(sorted(count, key=lambda m: -count[m])[: len(style.PALETTE)])
    named = dict(zip(most, style.PALETTE, strict=False))
    return named | {m: OTHERS for m in sorted(shown) if m not in named}


def _captions(row: Row, picked: list[int]) -> list[str]:
    shares = row.shares()[picked].tolist()
    each = [f"proxy {m + 1}: {100 * share:.0f} % of logit" for m, share in zip(picked, shares, strict=True)]
    return [row.title, "the proxy that gets most of each position", *each]


def _lay_over(axes: Any, row: Row, picked: list[int], place: int, colours: dict[int, str], most: float) -> None:
    """What lies on the image at this place of a row: nothing, the strongest proxies, or what one proxy gets."""
    from matplotlib.colors import to_rgb

    extent = (*axes.get_xlim(), *axes.get_ylim())
    over = {"extent": extent, "interpolation": "nearest", "aspect": "auto"}
    if place == 1:
        painted = torch.tensor([[to_rgb(colours[m]) for m in line] for line in row.strongest().tolist()])
        axes.imshow(painted.numpy(), alpha=0.65, **over)
    elif place >= 2:
        axes.imshow(row.mass[..., picked[place - 2]].numpy(), cmap=style.HEAT, vmin=0, vmax=most, alpha=0.65, **over)


def _legend(drawn: Any, colours: dict[int, str], most: float) -> None:
    """At the foot of the figure: the proxies' colours, and the scale of their heat maps."""
    import matplotlib
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=f"proxy {m + 1}") for m, colour in colours.items() if colour != OTHERS]
    handles += [Patch(color=OTHERS, label="other proxies")] if OTHERS in colours.values() else []
    place = {"loc": "lower left", "bbox_to_anchor": (EDGE - 0.07, 0.3), "bbox_transform": drawn.dpi_scale_trans}
    drawn.legend(handles=handles, ncols=5, borderaxespad=0.1, **place)
    heat = matplotlib.colormaps[style.HEAT](torch.linspace(0, 1, 256)[None].numpy())
    layout.scale(drawn, EDGE, 0.19, "What a proxy gets of a position's mass:", heat, ("0", f"{100 * most:.0f} %"))
