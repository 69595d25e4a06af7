"""A gallery that grows: features on disk in shards that are mapped into memory, added to and deleted from in place.

`<gallery>/gallery.json` says what the features are of; `<gallery>/shards/<name>/` holds `maps.npy` [n,d,h,w] in half
precision, `pooled.npy` [n,d] (directions of length one) and `images.json` (names and hashes); `<gallery>/deleted.json`
lists the hashes that no longer count. A shard appears by one rename, so that several processes and machines may add to
one gallery at the same time.
"""

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fewshot_cli.data.user_images import LooseImages
from fewshot_cli.errors import DataError
from fewshot_cli.evaluation.model import Model
from fewshot_cli.features.embed import directions
from fewshot_cli.predict.nearest import Engine, engine_of
from fewshot_cli.runtime.files import exclusive, guarded, regular, scratch, write_json

FORMAT = 1
ABOUT, DELETED, SHARDS = "gallery.json", "deleted.json", "shards"
PART = 64  # images that are in memory at once while they are embedded
SHARD = 16384  # images of a shard


@dataclass(frozen=True)
class Shard:
    """Images that were added together: names and hashes [n], directions [n,d] and maps [n,d,h,w] on disk."""

    names: list[str]
    digests: list[str]
    pooled: np.ndarray
    maps: np.ndarray


class Gallery:
    """An opened gallery. Raises `DataError` where the folder is none, or holds features of another model."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path, self.about = path, about
        self.shards: list[Shard] = []
        self.refresh()

    @classmethod
    def open(cls, path: Path, model: Model, create: bool = False) -> Self:
        """The gallery of a model's features; made where there is none, if `create` says so."""
        mine = model.made_of
        if not (path / ABOUT).is_file():
            if not create:
                raise DataError(f"{path}: is no gallery; make one with fsl gallery add {path} IMAGES")
            if path.exists() and any(path.iterdir()):
                raise DataError(f"{path}: is a folder of other things; give a new or empty one")
            with guarded(path):
                (path / SHARDS).mkdir(parents=True, exist_ok=True)
                write_json(path / ABOUT, {"format": FORMAT, "made_of": mine})
        about = _json(path / ABOUT)
        if about.get("format") != FORMAT or not isinstance(about.get("made_of"), dict):
            raise DataError(f"{path / ABOUT}: is not of this version of galleries; make the gallery again")
        other = next((key for key in mine if about["made_of"].get(key) != mine[key]), None)
        if other is not None:
            raise DataError(
                f"{path}: holds features of another {other} than recipe {model.recipe.name} makes; give the --recipe, "
                "--weights and --set it was made with"
            )
        return cls(path, about)

    def refresh(self) -> None:
        """Read the names of shards and deletions as they are now; shards appear in the order of their names."""
        folders = sorted(p for p in (self.path / SHARDS).iterdir() if p.is_dir() and not p.name.startswith("."))
        self.shards = [_shard(folder) for folder in folders]
        self.keys = [folder.name for folder in folders]
        self.starts = np.cumsum([0, *(len(shard.names) for shard in self.shards)])
        self._delete(set(_json(self.path / DELETED)["deleted"]) if (self.path / DELETED).is_file() else set())

    def _delete(self, digests: set[str]) -> None:
        """Let these, and no others, not count."""
        self.deleted = digests
        every = (digest for shard in self.shards for digest in shard.digests)
        self.gone = np.array([place for place, digest in enumerate(every) if digest in digests], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1]) - len(self.gone)

    def add(self, images: LooseImages, model: Model, tick: Callable[[int], None]) -> int:
        """Embed images that are not there yet, and return how many those were; one that was deleted comes back."""
        known = {digest for shard in self.shards for digest in shard.digests}
        first = {digest: i for i, digest in reversed(list(enumerate(images.identities())))}  # of files that are alike
        self._write_deleted(self.deleted - first.keys())
        new = sorted(i for digest, i in first.items() if digest not in known)
        done = 0
        for start in range(0, len(new), SHARD):
            done += self._add_shard(images.only(new[start : start + SHARD]), model, done, tick)
        self.refresh()
        return len(new)

    def _add_shard(self, images: LooseImages, model: Model, before: int, tick: Callable[[int], None]) -> int:
        target = self.path / SHARDS / f"{len(self.keys):06}-{uuid.uuid4().hex[:12]}"
        pooled, maps, done = [], [], 0
        for part in images.parts(PART):
            made = model.features_once(part).cpu()
            pooled.append(directions(made).numpy())
            maps.append(made.half().numpy())
            done += len(part)
            tick(before + done)
        with scratch(target) as folder, guarded(target):
            np.save(folder / "pooled.npy", np.concatenate(pooled))
            np.save(folder / "maps.npy", np.concatenate(maps))
            write_json(folder / "images.json", {"names": images.names, "digests": images.identities()})
            folder.rename(target)
        self.keys.append(target.name)
        return done

    def remove(self, names: list[str]) -> int:
        """Let images no longer count, by name or by the folder they lie in; returns how many. Their features stay."""
        found: set[str] = set()
        for name in names:
            hits = {
                digest
                for shard in self.shards
                for own, digest in zip(shard.names, shard.digests, strict=True)
                if (own == name or own.startswith(name.rstrip("/") + "/")) and digest not in self.deleted
            }
            if not hits:
                raise DataError(f"{self.path}: holds no image {name}; give names as fsl gallery list shows them")
            found |= hits
        self._write_deleted(self.deleted | found)
        return len(found)

    def _write_deleted(self, deleted: set[str]) -> None:
        if deleted != self.deleted:
            with exclusive(self.path / DELETED):
                write_json(self.path / DELETED, {"deleted": sorted(deleted)})
            self._delete(deleted)

    def names(self) -> Iterator[str]:
        """The names of its images."""
        for shard in self.shards:
            for name, digest in zip(shard.names, shard.digests, strict=True):
                if digest not in self.deleted:
                    yield name

    def search(
        self, model: Model, maps: Tensor, own: list[str], shortlist: int, top: int, engine: Engine
    ) -> list[list[tuple[str, float, float]]]:
        """For each query's maps [Q,d,h,w] its `top` images as (name, cosine, score): the `shortlist` nearest
        directions, re-ranked by the head. An image is never found by itself (`own` [Q] are hashes).
        """
        wanted = min(shortlist + 1, len(self))
        places, cosines = engine.nearest(directions(maps).cpu().numpy(), wanted, self.gone)
        out: list[list[tuple[str, float, float]]] = []
        for query, row, near, digest in zip(maps, places, cosines, own, strict=True):
            kept = []
            for place, cosine in zip(row, near, strict=True):
                shard, i = self._at(place)
                if place >= 0 and shard.digests[i] != digest:
                    kept.append((shard.names[i], float(cosine), shard.maps[i]))
            kept = kept[:shortlist]
            if not kept:
                out.append([])
                continue
            support = torch.stack([torch.from_numpy(found.astype(np.float32)) for _, _, found in kept])
            scores = model.head(support[None, :, None].to(query.device), query[None, None])[0, 0]
            order = scores.argsort(descending=True, stable=True)[:top].tolist()
            out.append([(*kept[j][:2], float(scores[j])) for j in order])
        return out

    def _at(self, place: int) -> tuple[Shard, int]:
        """The shard of an image by its place among all, and its place there."""
        number = int(np.searchsorted(self.starts, place, "right")) - 1
        return self.shards[number], int(place - self.starts[number])


def _json(path: Path) -> dict[str, Any]:
    with guarded(path):
        text = regular(path).read_text("utf-8")
    try:
        made = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: is damaged ({error}); make the gallery again") from error
    if not isinstance(made, dict):
        raise DataError(f"{path}: is damaged; make the gallery again")
    return made


def _shard(folder: Path) -> Shard:
    """A shard, its arrays mapped. Raises `DataError` where files do not belong together."""
    about = _json(folder / "images.json")
    names, digests = about.get("names"), about.get("digests")
    try:
        with guarded(folder):
            pooled, maps = (
                np.load(regular(folder / f"{name}.npy"), mmap_mode="r", allow_pickle=False)
                for name in ("pooled", "maps")
            )
    except (ValueError, EOFError) as error:
        raise DataError(f"{folder}: is damaged ({error}); remove it and add its images again") from error
    counts = {len(x) if isinstance(x, list) else -1 for x in (names, digests)} | {len(pooled), len(maps)}
    if len(counts) != 1 or pooled.ndim != 2 or maps.ndim != 4:
        raise DataError(f"{folder}: its files do not belong together; remove it and add its images again")
    return Shard(list(names or []), list(digests or []), pooled, maps)


@torch.no_grad()
def find(
    gallery: Gallery,
    model: Model,
    asked: LooseImages,
    shortlist: int,
    top: int,
    engine: str,
    tick: Callable[[int], None],
) -> list[dict[str, Any]]:
    """A record for each query with the images found, best first. Raises `DataError` for an empty gallery."""
    if not len(gallery):
        raise DataError(f"{gallery.path}: holds no images; add some with fsl gallery add")
    rows: list[dict[str, Any]] = []
    opened = engine_of(engine, [shard.pooled for shard in gallery.shards], gallery.path, gallery.keys)
    for part in asked.parts(PART):
        maps = model.features_once(part)
        hits = gallery.search(model, maps, part.identities(), shortlist, top, opened)
        for name, found in zip(part.names, hits, strict=True):
            rows.append(
                {"query": name, "found": [{"image": n, "score": score, "cosine": near} for n, near, score in found]}
            )
        tick(len(rows))
    return rows
