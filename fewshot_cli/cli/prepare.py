"""`fsl prepare`: a public archive or a folder becomes one packed store."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.runtime.console import emit, say


class Format(StrEnum):
    """Formats of the report."""

    table = "table"
    json = "json"


def prepare(
    name: Annotated[
        str, typer.Argument(autocompletion=o.names_of("datasets"), help="A dataset of `fsl list datasets`.")
    ],
    source: Annotated[
        Path | None, typer.Option("--from", help="Archive or folder; without it the public archive is downloaded.")
    ] = None,
    store: Annotated[str | None, typer.Option("--name", help="Name of the store (default: NAME).")] = None,
    sets: o.Set = None,
    data_root: o.DataRoot = None,
    force: Annotated[bool, typer.Option("--force", help="Make it again although it is there.")] = False,
    format: Annotated[Format, typer.Option(help="Format of the report.")] = Format.table,
    debug: o.Debug = False,
) -> None:
    """Turn a public archive (downloaded or given by --from) into one packed store and report on it."""
    from fewshot_cli import registry
    from fewshot_cli.config import strict_yaml
    from fewshot_cli.config.load import validate_options
    from fewshot_cli.config.schema import DatasetSpec
    from fewshot_cli.data.prepare import build_store, sources_of
    from fewshot_cli.data.store import open_store
    from fewshot_cli.errors import FslError

    cls = registry.dataset(name)
    pairs = [text.partition("=") for text in sets or []]
    if bad := next((key for key, equals, _ in pairs if not equals), None):
        raise FslError(f"--set {bad}: write it as key=value")
    builder = cls(validate_options(cls.Options, {key: strict_yaml.scalar(value) for key, _, value in pairs}, "--set"))
    target = validate_options(DatasetSpec, {"name": name, "store": store or name}, "--name").store
    root = o.data_root(data_root)
    if (root / target).exists() and not force:
        report = open_store(root, target).index["report"]
        say(f"{root / target} is already prepared; --force makes it again")
    else:
        report = build_store(target, builder, sources_of(name, source, root), root)
    emit(json.dumps(report, indent=2) if format is Format.json else _table(target, report, root))


def _table(name: str, report: dict, root: Path) -> str:
    from fewshot_cli.runtime.render import grid

    rows = [
        [
            split,
            r["classes"],
            r["images"],
            f"{r['smallest_class']}-{r['largest_class']}",
            "×".join(map(str, r["min_side"]))
            + (" … " + "×".join(map(str, r["max_side"])) if r["min_side"] != r["max_side"] else ""),
        ]
        for split, r in report["splits"].items()
    ]
    lines = [grid(["split", "classes", "pictures", "a class", "height×width"], rows)]
    doubles = report["duplicates"]
    lines.append(
        f"duplicate pictures: {doubles}, of them across splits: {report['duplicates_across_splits']}"
        + (f" (such as {' = '.join(report['example_duplicates'][0])})" if doubles else "")
    )
    shared = report["classes_in_several_splits"]
    every = len(report["splits"]) > 1 and all(r["classes"] == len(shared) for r in report["splits"].values())
    lines.append(f"classes in several splits: {'all' if every else ', '.join(shared) if shared else 'none'}")
    if report["complete_public_data"] is not None:
        verdict = "yes" if report["complete_public_data"] else "NO: published figures may not be reproduced"
        lines.append(f"the complete public data: {verdict}")
    lines.append(f"{report['megabytes']} MB in {root / name}\nsha256 {report['sha256']}")
    return "\n".join(lines)
