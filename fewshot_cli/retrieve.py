"""Image retrieval (DeepEMD's journal extension): a global shortlist, re-ranked by the optimal matching of local features."""

from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli import build, transport
from fewshot_cli.console import progress
from fewshot_cli.data.folder import Folder
from fewshot_cli.errors import DataError
from fewshot_cli.evaluate import BUDGET
from fewshot_cli.pictures import Parts
from fewshot_cli.runs import versions
from fewshot_cli.schema import Recipe
from fewshot_cli.stats import INTERVAL_PAIRED_QUERIES, INTERVAL_QUERIES, paired, share_ci95


def retrieve(recipe: Recipe, gallery: Path | None, query: Path | None, count: int | None, shortlist: int, ks: tuple[int, ...],
             given: Path | None, root: Path, device: torch.device) -> dict[str, Any]:  # fmt: skip
    """Recall@k of the global ranking and of its first `shortlist` pictures re-ranked by the recipe's head.

    Folders are `<path>/<class>/<picture>`. Without `query` every picture of the gallery (of `count` drawn from the
    recipe's seed) is searched for among the others; without `gallery` it is the recipe's evaluation split. The global
    ranking is by the cosine of pooled features. Raises `DataError` for a gallery too small for a k.
    """
    begin = perf_counter()
    parts = Parts(recipe, given, root, device)
    pictures = Folder(gallery) if gallery else build.store(recipe, root).split(recipe.eval.split)
    asked = Folder(query) if query else pictures
    names, size = pictures.classes, len(pictures) - (query is None)
    if max(ks) > size:
        raise DataError(f"{gallery or pictures.store}: {max(ks)} neighbours were asked for, the gallery has {size} pictures for "
                        "each query; lower --k or give a larger gallery")  # fmt: skip
    if unknown := [c for c in asked.classes if c not in names]:
        raise DataError(f"{query}: class {unknown[0]} has no picture in the gallery ({', '.join(names[:5])}…), so it can never "
                        "be found; name the class folders alike")  # fmt: skip
    label_of = torch.tensor([names.index(c) for c in asked.classes])
    picks = _picks(len(asked), count, recipe.seed)
    found = parts.maps(pictures)
    searched = found if asked is pictures else parts.maps(asked)
    shortlist = min(max(shortlist, max(ks)), size)
    hits = {"global": [], "reranked": []}
    with transport.ledger() as book, progress("retrieve", len(picks)) as bar:
        for part in picks.split(_queries_a_call(parts, shortlist, found)):
            ranks = _ranks(parts, searched[part.to(found.device)], found, shortlist, part if query is None else None)
            truth = label_of[asked.labels[part]]
            for kind, order in zip(hits, ranks, strict=True):
                hits[kind].append(pictures.labels[order.cpu()] == truth[:, None])
            bar.update(sum(len(h) for h in hits["global"]))
    hits = {kind: torch.cat(rows) for kind, rows in hits.items()}
    return {"format": 1, "recipe": recipe.name, "head": recipe.head.name, "weights": parts.weights.label,
            "gallery": str(gallery or f"{pictures.store}/{pictures.split}"), "pictures": len(pictures), "queries": len(picks),
            "shortlist": shortlist, "recall": {k: _recall(hits, k) for k in ks}, "interval": INTERVAL_QUERIES,
            "interval_difference": INTERVAL_PAIRED_QUERIES, "not_converged": sum(book.failures(1)),
            "seconds": {"embedding": parts.embedding, "solver": book.seconds, "total": perf_counter() - begin},
            "seed": recipe.seed, "versions": versions(), "device": str(device)}  # fmt: skip


def _picks(have: int, count: int | None, seed: int) -> Tensor:
    if count is None or count >= have:
        return torch.arange(have)
    raw = np.random.Philox(key=seed, counter=[0, 0, 0, 1]).random_raw(have)
    return torch.from_numpy(np.sort(np.argsort(raw, kind="stable")[:count]))


def _queries_a_call(parts: Parts, shortlist: int, maps: Tensor) -> int:
    one = shortlist * max(maps[0].numel(), (maps.shape[2] * maps.shape[3]) ** 2)
    return max(1, min(256, BUDGET // 4 // one))


@torch.no_grad()
def _ranks(parts: Parts, query: Tensor, gallery: Tensor, shortlist: int, own: Tensor | None) -> tuple[Tensor, Tensor]:
    """The shortlist [Q,shortlist] of each query by global cosine, and the same re-ranked; `own` is each query's place."""
    pooled, stored = (F.normalize(x.flatten(2).mean(-1), dim=-1) for x in (query, gallery))
    near = pooled @ stored.T
    if own is not None:
        near[torch.arange(len(own)), own] = -torch.inf
    order = near.topk(shortlist, 1).indices
    scores = parts.head(gallery[order][:, :, None], query[:, None])[:, 0]
    return order, order.gather(1, scores.argsort(dim=1, descending=True, stable=True))


def _recall(hits: dict[str, Tensor], k: int) -> dict[str, float]:
    first, second = ((100.0 * hits[kind][:, :k].any(1)).tolist() for kind in ("global", "reranked"))
    out: dict[str, float] = {}
    for kind, values in (("global", first), ("reranked", second)):
        out[kind], out[f"{kind}_ci95"] = share_ci95(sum(v > 0 for v in values), len(values))
    out["difference"], out["difference_ci95"] = paired(second, first)
    return out
