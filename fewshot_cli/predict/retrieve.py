"""Image retrieval (DeepEMD's journal extension): a global shortlist, re-ranked by the optimal matching of local
features.
"""

from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewshot_cli import transport
from fewshot_cli.config.schema import Recipe
from fewshot_cli.data.store import Split
from fewshot_cli.data.user_images import TAKING, Folder, Taking, all_bad_of, omissions
from fewshot_cli.errors import DataError
from fewshot_cli.evaluation.episodes import BUDGET, channels_last
from fewshot_cli.evaluation.model import Model
from fewshot_cli.evaluation.stats import INTERVAL_PAIRED_QUERIES, INTERVAL_QUERIES, paired, share_ci95
from fewshot_cli.features.embed import directions
from fewshot_cli.runtime.console import progress
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.runtime.runs import versions


def retrieve(
    recipe: Recipe,
    gallery: Path | None,
    query: Path | None,
    count: int | None,
    shortlist: int,
    ks: tuple[int, ...],
    given: Path | None,
    root: Path,
    device: torch.device,
    taking: Taking = TAKING,
) -> dict[str, Any]:
    """Each query's ranking, by pooled features and with its first `shortlist` images re-ranked by the recipe's head,
    and the Recall@k of both.

    Folders are `<path>/<class>/<image>`. Without `query` every image of the gallery (of `count` drawn from the
    recipe's seed) is searched for among the others; without `gallery` it is the recipe's evaluation split. An image is
    never found by itself or by a copy of its file, and a query whose class has no other image is left out. The global
    ranking is by the cosine of pooled features. Raises `DataError` for a gallery too small for a k.
    """
    begin = perf_counter()
    model = Model.open(recipe, root, Processes(device), given)
    images = Folder(gallery, "--gallery", recipe.image, taking) if gallery else model.split
    asked = Folder(query, "--query", recipe.image, taking) if query else images
    names, same = images.classes, _copies(asked, images)
    size = len(images) - max(map(len, same))
    if max(ks) > size:
        raise DataError(
            f"{gallery or images.store}: {max(ks)} neighbours were asked for, the gallery has {size} images for "
            "each query; lower --k or give a larger gallery"
        )
    if unknown := [c for c in asked.classes if c not in names]:
        raise DataError(
            f"{query}: class {unknown[0]} has no image in the gallery ({', '.join(names[:5])}…), so it can never "
            "be found; give the class folders the same names"
        )
    label_of = torch.tensor([names.index(c) for c in asked.classes])
    truth = label_of[asked.labels]
    others = torch.bincount(images.labels, minlength=len(names))[truth]
    others -= torch.tensor([int((images.labels[copies] == t).sum()) for copies, t in zip(same, truth, strict=True)])
    can = torch.nonzero(others > 0).flatten()
    if not len(can):
        raise DataError(
            f"{gallery or images.store}: no query has another image of its class to be found; give classes of "
            "two images or more"
        )
    picks = can[_picks(len(can), count, recipe.seed)]
    with all_bad_of(images, asked):
        gallery_features = model.features(images)
        searched = gallery_features if asked is images else model.features(asked)
    stored = directions(gallery_features)
    gallery_features = channels_last(gallery_features, model.processes)
    shortlist = min(max(shortlist, max(ks)), size)
    found_at: dict[str, list[Tensor]] = {"global": [], "reranked": []}
    ranking: list[dict[str, Any]] = []
    with transport.ledger() as ledger, progress("retrieve", len(picks), "queries") as bar:
        for part in picks.split(_queries_a_call(model, shortlist, gallery_features)):
            queries = part.tolist()
            order, again, scores = _ranks(
                model,
                searched[part.to(gallery_features.device)],
                gallery_features,
                stored,
                shortlist,
                [same[q] for q in queries],
            )
            for kind, places in zip(found_at, (order, again), strict=True):
                found_at[kind].append(images.labels[places] == truth[part, None])
            for q, places, values in zip(queries, again.tolist(), scores.tolist(), strict=True):
                ranking.append(
                    {
                        **_named(asked, q),
                        "found": [
                            {**_named(images, i), "score": s}
                            for i, s in list(zip(places, values, strict=True))[: max(ks)]
                        ],
                    }
                )
            bar.update(sum(len(rows) for rows in found_at["global"]))
    hits = {kind: torch.cat(rows) for kind, rows in found_at.items()}
    return {
        "format": 1,
        "recipe": recipe.name,
        "head": recipe.head.name,
        "weights": model.weights.label,
        "gallery": str(gallery or f"{images.store}/{images.split}"),
        "pictures": len(images),
        "queries": len(picks),
        "left_out": len(asked) - len(can),
        **omissions(images, asked),
        "shortlist": shortlist,
        "recall": {k: _recall(hits, k) for k in ks},
        "interval": INTERVAL_QUERIES,
        "interval_difference": INTERVAL_PAIRED_QUERIES,
        "not_converged": sum(ledger.failures(1)),
        "seconds": {"embedding": model.embedding_seconds, "solver": ledger.seconds, "total": perf_counter() - begin},
        "seed": recipe.seed,
        "versions": versions(),
        "device": str(device),
        "ranking": ranking,
    }


def _picks(have: int, count: int | None, seed: int) -> Tensor:
    if count is None or count >= have:
        return torch.arange(have)
    raw = np.random.Philox(key=seed, counter=[0, 0, 0, 1]).random_raw(have)
    return torch.from_numpy(np.sort(np.argsort(raw, kind="stable")[:count]))


def _copies(asked: Folder | Split, gallery: Folder | Split) -> list[list[int]]:
    """Places in the gallery of each query's own file [N]."""
    places: dict[str, list[int]] = {}
    for i, identity in enumerate(gallery.identities()):
        places.setdefault(identity, []).append(i)
    return [places.get(identity, []) for identity in asked.identities()]


def _named(images: Folder | Split, i: int) -> dict[str, str]:
    return {"picture": images.names[i], "class": images.classes[images.labels[i]]}


def _queries_a_call(model: Model, shortlist: int, maps: Tensor) -> int:
    one = shortlist * max(maps[0].numel(), (maps.shape[2] * maps.shape[3]) ** 2)
    return max(1, min(256, BUDGET // 4 // one))


@torch.no_grad()
def _ranks(
    model: Model, query: Tensor, gallery: Tensor, stored: Tensor, shortlist: int, same: list[list[int]]
) -> tuple[Tensor, ...]:
    """The shortlist [Q,shortlist] of each query by global cosine, the same re-ranked, and the scores of that.

    `stored` are the gallery's maps pooled, `same` each query's own places in the gallery.
    """
    near = directions(query) @ stored.T
    for row, copies in zip(near, same, strict=True):
        row[copies] = -torch.inf
    order = near.topk(shortlist, 1).indices
    found = gallery.permute(0, 2, 3, 1)[order].movedim(-1, -3)  # their channels lie together, as heads read them
    scores = model.head(found[:, :, None], query[:, None])[:, 0]
    scores, at = scores.sort(dim=1, descending=True, stable=True)
    return order.cpu(), order.gather(1, at).cpu(), scores.cpu()


def _recall(hits: dict[str, Tensor], k: int) -> dict[str, float | None]:
    first, second = ((100.0 * hits[kind][:, :k].any(1)).tolist() for kind in ("global", "reranked"))
    out: dict[str, float | None] = {}
    for kind, values in (("global", first), ("reranked", second)):
        out[kind], out[f"{kind}_ci95"] = share_ci95(sum(v > 0 for v in values), len(values))
    out["difference"], out["difference_ci95"] = paired(second, first)
    return out
