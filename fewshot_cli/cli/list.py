"""`fsl list`: the parts and recipes with their packages and devices, and whether they work here."""

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli.output import in_format
from fewshot_cli.errors import FslError
from fewshot_cli.runtime.console import emit
from fewshot_cli.runtime.render import Format


def list_parts(
    kind: Annotated[str, typer.Argument(autocompletion=o.kinds, help=o.KINDS_HELP)],
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", autocompletion=o.names_of("datasets"), help="Only recipes of this dataset."),
    ] = None,
    timm: Annotated[
        str | None,
        typer.Option("--timm", metavar="PATTERN", help="Models of timm for backbone timm, such as 'dinov3*'."),
    ] = None,
    data_root: o.DataRoot = None,
    format: Annotated[
        Format, o.format_option(Format.table, Format.json, help="Format of the list on stdout.")
    ] = Format.table,
) -> None:
    """List parts or recipes: name, package, devices, and whether each works here."""
    chosen = o.kind_of(kind)
    if dataset is not None and chosen is not o.Kind.recipes:
        raise FslError("--dataset filters recipes; write `fsl list recipes --dataset NAME`")
    if timm is not None:
        rows = _models(chosen, timm)
    else:
        rows = recipe_rows(dataset) if chosen is o.Kind.recipes else _parts(chosen, o.data_root(data_root))
    header = list(rows[0]) if rows else ["name"]
    least = [key for key in header if key not in ("name", "what", "weights here")]
    emit(in_format(format, rows, [(header, [[row[key] for key in header] for row in rows], least)]))


def _models(kind: o.Kind, pattern: str) -> list[dict[str, Any]]:
    """The models of a library that a backbone takes by name."""
    from fewshot_cli.registry import backbone

    if kind is not o.Kind.backbones:
        raise FslError("--timm searches for backbones; write `fsl list backbones --timm PATTERN`")
    rows: list[dict[str, Any]] = backbone("timm").search(pattern)  # type: ignore[attr-defined]
    if not rows:
        raise FslError(f"--timm {pattern}: timm has no such model; try fewer letters, as in {pattern.strip('*')[:3]}")
    return rows


def recipe_rows(dataset: str | None = None) -> list[dict[str, Any]]:
    """One row for each installed recipe, of a dataset or of all. Raises `RecipeError` for an unknown dataset."""
    from fewshot_cli import registry
    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.config.places import installed_recipes, recipes_of
    from fewshot_cli.weights.at_hand import at_hand

    if dataset is not None:
        registry.dataset(dataset)
    rows = []
    for name in recipes_of(dataset) if dataset else installed_recipes():
        recipe = load_recipe(name)
        episodes = f"{recipe.episode.way}w{recipe.episode.shot}s"
        rows.append(
            {
                "name": name,
                "dataset": recipe.dataset.name,
                "backbone": recipe.backbone.name,
                "head": recipe.head.name,
                "solver": recipe.solver.name,
                "task": "classification" if recipe.eval.protocol == "classification" else episodes,
                "expects": recipe.expect[0].accuracy if recipe.expect else "-",
                "weights here": at_hand(recipe) or "no",
            }
        )
    if not rows:
        raise FslError(
            f"dataset {dataset}: no installed recipe is for it; copy one of another (fsl recipe cp) and set "
            f"dataset.name={dataset}"
        )
    return rows


def _parts(kind: o.Kind, root: Path) -> list[dict[str, Any]]:
    """One row for each part, all with the same keys; a part that cannot be imported says why."""
    from fewshot_cli.registry import entries

    rows = []
    for name, entry in entries(kind).items():
        row = {"name": name, "package": entry.package}
        try:
            cls = entry.load()
        except FslError as error:
            rows.append({**row, "works here": f"no: {error}", "what": ""})
            continue
        summary = (inspect.getdoc(cls) or "").partition("\n\n")[0].replace("\n", " ")
        rows.append({**row, **_state(kind, cls, root / name), "what": summary})
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return [{key: row.get(key, "") for key in keys} for row in rows]


def _state(kind: o.Kind, cls: Any, store: Path) -> dict[str, str]:
    """What is specific to one kind of part: where a solver works, whether a dataset is prepared."""
    if kind is o.Kind.solvers:
        reason = cls.unavailable_reason()
        return {
            "devices": ",".join(cls.devices),
            "exact": "yes" if cls.exact else "no",
            "gradient": cls.gradient,
            "works here": "yes" if reason is None else f"no: {reason}",
        }
    if kind is o.Kind.datasets:
        return {"prepared": "yes" if store.is_dir() else "generated on first use" if cls.embedded else "no"}
    return {"devices": "any PyTorch", "works here": "yes"}
