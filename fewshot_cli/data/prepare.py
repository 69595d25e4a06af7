"""From a public archive or a folder to a packed store, and from a recipe to its store."""

import hashlib
import os
from pathlib import Path
from typing import Any

from fewshot_cli import registry
from fewshot_cli.config.schema import Recipe
from fewshot_cli.contracts import DatasetBuilder
from fewshot_cli.data.decode import PUBLISHED, Reading
from fewshot_cli.data.download import fetch
from fewshot_cli.data.store import Store, open_store
from fewshot_cli.data.writer import StoreWriter
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.console import say
from fewshot_cli.runtime.files import exclusive, guarded, sha256


def open_dataset(name: str, store: str, root: Path, how: Reading = PUBLISHED) -> Store:
    """The packed store of dataset `name`; an embedded dataset is generated on first use.

    Its images are read as `how` says. Raises `DataError` when it is not prepared.
    """
    if not (root / store).exists() and (builder := registry.dataset(name)).embedded:
        with exclusive(root / store):
            if not (root / store).exists():  # another process may have generated it in the meantime
                say(f"generating the embedded dataset {store} in {root} …")
                build_store(store, builder(), [], root)
    return open_store(root, store, how)


def dataset_of(recipe: Recipe, root: Path) -> Store:
    """The packed store of a recipe's dataset, its images read as the recipe says. Raises `DataError` as
    `open_dataset`.
    """
    return open_dataset(recipe.dataset.name, recipe.store, root, Reading.of(recipe.image))


def sources_of(dataset: str, given: Path | None, root: Path) -> list[Path]:
    """What a dataset is made from: `given`, else its public archives, downloaded.

    Raises `DataError` when it has none.
    """
    cls = registry.dataset(dataset)
    if given is None and not cls.urls and not cls.embedded:
        raise DataError(f"{dataset}: give --from {cls.source}")
    if given is not None:
        return [given]
    return [fetch(url, root / "downloads" / file, digest) for file, (url, digest) in cls.urls.items()]


def build_store(
    name: str, builder: DatasetBuilder, sources: list[Path], root: Path, skip_bad: bool = False
) -> dict[str, Any]:
    """Build the store `name` and return its report; nothing is left behind on failure.

    With `skip_bad` it goes on without images that do not decode.
    """
    info = {
        "dataset": type(builder).__name__,
        "options": builder.options.model_dump(mode="json"),
        "licence": builder.licence,
        "sources": [_source(path) for path in sources],
    }
    with StoreWriter(root, name, info) as writer:
        writer.skip_bad = skip_bad
        builder.build(sources, writer)
        return writer.finish(builder.sha256)


def check_made_so(store: Store, builder: DatasetBuilder, given: Path | None) -> None:
    """Raise `DataError` when a store was made from another dataset, with other options, or from another source than the
    one given (None: whatever it was).
    """
    made = store.index
    different = ["from another dataset"] if made.get("dataset") != type(builder).__name__ else []
    if _with_defaults(builder, made.get("options")) != builder.options.model_dump(mode="json"):
        different.append("with other options")
    if given is not None and not given.exists():
        raise DataError(f"--from {given}: no such file or folder; give what {store.name} is made from")
    if given is not None and not _same(made.get("sources"), _source(given)):
        different.append("from another source")
    if different:
        raise DataError(
            f"{store.path}: is already prepared, {' and '.join(different)} than now asked for; --force prepares it "
            "again, and --name keeps both"
        )


def _with_defaults(builder: DatasetBuilder, recorded: Any) -> Any:
    """A store's recorded options with those that have come since, at their defaults."""
    if not isinstance(recorded, dict):
        return recorded
    return {**type(builder.options)().model_dump(mode="json"), **recorded}


def _same(recorded: Any, source: dict[str, str]) -> bool:
    """Whether a source is the one recorded; stores of earlier versions have no digest of a folder, only its name."""
    if not isinstance(recorded, list) or len(recorded) != 1 or not isinstance(recorded[0], dict):
        return False
    digest = recorded[0].get("sha256")
    return digest == source["sha256"] if digest is not None else recorded[0].get("name") == source["name"]


def _source(path: Path) -> dict[str, str]:
    """Name and SHA-256 of a file, or of a folder's list: all its files by name and size."""
    with guarded(path):
        if path.is_file():
            return {"name": path.name, "sha256": sha256(path)}
        listed = hashlib.sha256()
        for folder, folders, files in os.walk(path):
            folders.sort()
            for name in sorted(files):
                file = Path(folder, name)
                listed.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode("utf-8", "surrogateescape"))
        return {"name": path.resolve().name, "sha256": listed.hexdigest()}
