"""`fsl list` and `fsl show`: what is there, from which package, on which devices, and whether it works here."""

import inspect
import json
from enum import StrEnum
from typing import Annotated

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.errors import FslError
from fewshot_cli.runtime.console import emit


class Kind(StrEnum):
    """What can be listed."""

    solvers = "solvers"
    heads = "heads"
    backbones = "backbones"
    classifiers = "classifiers"
    extractors = "extractors"
    datasets = "datasets"
    recipes = "recipes"


class Form(StrEnum):
    """Formats of a list."""

    table = "table"
    json = "json"


def list_parts(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    data_root: o.DataRoot = None,
    format: Annotated[Form, typer.Option("--format", help="Format of the list.")] = Form.table,
    debug: o.Debug = False,
) -> None:
    """List parts or recipes: name, package, devices, and whether each works here."""
    rows = _recipe_rows() if kind is Kind.recipes else _part_rows(kind, o.data_root(data_root))
    if format is Form.json:
        return emit(json.dumps(rows, indent=2))
    from fewshot_cli.runtime.render import grid

    header = list(rows[0]) if rows else ["name"]
    return emit(grid(header, [[row[k] for k in header] for row in rows]))


def _recipe_rows() -> list[dict]:
    from fewshot_cli.config.load import installed_recipes, load_recipe

    rows = []
    for name in installed_recipes():
        r = load_recipe(name)
        rows.append(
            {
                "name": name,
                "dataset": r.dataset.name,
                "backbone": r.backbone.name,
                "head": r.head.name,
                "solver": r.solver.name,
                "task": "classification"
                if r.eval.protocol == "classification"
                else f"{r.episode.way}w{r.episode.shot}s",
                "expects": r.expect.accuracy if r.expect else "-",
            }
        )
    return rows


def _part_rows(kind: Kind, root) -> list[dict]:  # noqa: ANN001
    from fewshot_cli.registry import entries

    rows = []
    for name, entry in entries(kind).items():
        row = {"name": name, "package": entry.package}
        try:
            cls = entry.load()
        except FslError as fault:
            rows.append({**row, "works here": f"no: {fault}", "what": ""})
            continue
        if kind is Kind.solvers:
            reason = cls.unavailable_reason()
            row |= {
                "devices": ",".join(cls.devices),
                "exact": "yes" if cls.exact else "no",
                "gradient": cls.gradient,
                "works here": "yes" if reason is None else f"no: {reason}",
            }
        elif kind is Kind.datasets:
            row |= {"prepared": "yes" if (root / name).is_dir() else "made on first use" if cls.embedded else "no"}
        else:
            row |= {"devices": "any PyTorch", "works here": "yes"}
        rows.append({**row, "what": _first_line(cls)})
    keys = list(dict.fromkeys(k for row in rows for k in row))
    return [{k: row.get(k, "") for k in keys} for row in rows]


def _first_line(cls: type) -> str:
    return (inspect.getdoc(cls) or "").partition("\n\n")[0].replace("\n", " ")


def _names(ctx: typer.Context, incomplete: str) -> list[str]:
    from fewshot_cli.config.load import installed_recipes
    from fewshot_cli.registry import KINDS, entries

    kind = f"{str(ctx.params.get('kind') or '').removesuffix('s')}s"
    known = installed_recipes() if kind == "recipes" else entries(kind) if kind in KINDS else {}
    return [name for name in known if name.startswith(incomplete)]


def show(
    kind: Annotated[str, typer.Argument(help="solver, head, backbone, classifier, extractor, dataset or recipe.")],
    name: Annotated[str, typer.Argument(autocompletion=_names, help="Its name.")],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Option of a backbone to count with; repeatable."),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option("--classes", min=2, help="Count a backbone with a linear classifier of so many classes."),
    ] = None,
    debug: o.Debug = False,
) -> None:
    """Show a part's documentation and its options with ranges and defaults, or a recipe with every default.

    Of a backbone also parameters and multiply-adds.
    """
    kinds = {k.value for k in Kind}
    plural = f"{kind.removesuffix('s')}s"
    if plural not in kinds:
        from fewshot_cli.registry import did_you_mean

        raise FslError(f"{kind}: no such kind{did_you_mean(plural, kinds)}; one of {', '.join(sorted(kinds))}")
    if (sets or classes) and plural != "backbones":
        raise FslError("--set and --classes are for counting a backbone; leave them out")
    if plural == "recipes":
        from fewshot_cli.config.load import load_recipe

        return emit(o.printed(load_recipe(name)))
    from fewshot_cli.registry import entries, part

    cls = part(plural, name)
    lines = [f"{plural[:-1]} {name} (package {entries(plural)[name].package})", "", inspect.getdoc(cls) or "", ""]
    if plural == "datasets":
        lines += [f"--from: {cls.source}", f"licence: {cls.licence or 'as its makers say'}", ""]
    if plural == "solvers":
        reason = cls.unavailable_reason()
        lines += [
            f"devices: {', '.join(cls.devices)}; exact: {'yes' if cls.exact else 'no'}; gradient: {cls.gradient}; "
            f"works here: {'yes' if reason is None else 'no, ' + reason}",
            "",
        ]
    if plural == "backbones":
        lines += [*_costs(cls, sets or [], classes), ""]
    return emit("\n".join(lines + ["options:", *_options(cls.Options)]))


def _costs(cls: type, sets: list[str], classes: int | None) -> list[str]:
    from torch import nn

    from fewshot_cli.config import strict_yaml
    from fewshot_cli.config.load import validate_options
    from fewshot_cli.profiling.costs import count

    pairs = [text.partition("=") for text in sets]
    if bad := next((key for key, equals, _ in pairs if not equals), None):
        raise FslError(f"--set {bad}: write it as key=value")
    network = cls(validate_options(cls.Options, {key: strict_yaml.scalar(value) for key, _, value in pairs}, "--set"))
    if classes:
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(network.channels, classes))
        network = nn.Sequential(network, pooled)
    found = {size: count(network, size) for size in (32, 84, 224)}
    of = f" with a linear classifier of {classes} classes" if classes else ""
    return [
        f"{found[32].parameters / 1e6:.4f} M parameters{of}; multiply-adds of a picture (with 2 for "
        "each value of a batch norm):",
        *(
            f"  {size}×{size}: {c.multiply_adds / 1e6:,.1f} M ({c.multiply_adds_bn / 1e6:,.1f} M)"
            for size, c in found.items()
        ),
    ]


def _options(model: type) -> list[str]:
    schema = model.model_json_schema()
    out = []
    for key, field in schema.get("properties", {}).items():
        bounds = [
            f"{sign} {field[word]}"
            for word, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
            if word in field
        ]
        kinds = field.get("enum") or [
            field["type"] if "type" in field else "/".join(k.get("type", "?") for k in field["anyOf"])
        ]
        text = (
            f"  {key}: {' | '.join(map(str, kinds))}{' ' + ', '.join(bounds) if bounds else ''}, "
            f"default {field.get('default')}"
        )
        out.append(text + (f" — {field['description']}" if "description" in field else ""))
    return out or ["  none"]
