"""From a public archive or a folder to a packed store, and from a recipe to its store."""

from pathlib import Path
from typing import Any

from fewshot_cli import registry
from fewshot_cli.contracts import DatasetBuilder
from fewshot_cli.data.download import fetch
from fewshot_cli.data.store import Store, open_store
from fewshot_cli.data.writer import StoreWriter
from fewshot_cli.errors import DataError
from fewshot_cli.runtime.console import say
from fewshot_cli.runtime.files import exclusive, guarded, sha256


def open_dataset(name: str, store: str, root: Path) -> Store:
    """The packed store of dataset `name`; an embedded dataset is generated on first use.

    Raises `DataError` when it is not prepared.
    """
    if not (root / store).exists() and (builder := registry.dataset(name)).embedded:
        with exclusive(root / store):
            if not (root / store).exists():  # another process may have generated it in the meantime
                say(f"generating the embedded dataset {store} in {root} …")
                build_store(store, builder(), [], root)
    return open_store(root, store)


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


def build_store(name: str, builder: DatasetBuilder, sources: list[Path], root: Path) -> dict[str, Any]:
    """Build the store `name` and return its report; nothing is left behind on failure."""
    info = {
        "dataset": type(builder).__name__,
        "options": builder.options.model_dump(),
        "licence": builder.licence,
        "sources": [{"name": p.name, "sha256": _digest(p)} for p in sources],
    }
    with StoreWriter(root, name, info) as writer:
        builder.build(sources, writer)
        return writer.finish(builder.sha256)


def _digest(path: Path) -> str | None:
    with guarded(path):
        return sha256(path) if path.is_file() else None
