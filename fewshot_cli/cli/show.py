"""`fsl show`: the documentation and options of a part, or a recipe with every default."""

import inspect
from typing import Annotated, Any

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli import output
from fewshot_cli.cli.completion import option_keys
from fewshot_cli.errors import FslError
from fewshot_cli.runtime.console import emit
from fewshot_cli.runtime.render import Format, as_json

_SIDES = (32, 84, 224)  # of the images that a backbone's multiply-adds are counted for
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def _kinds(incomplete: str) -> list[str]:
    return [word for kind in o.Kind for word in (kind[:-1], str(kind)) if word.startswith(incomplete)]


def _names(ctx: typer.Context, incomplete: str) -> list[str]:
    kind = f"{str(ctx.params.get('kind') or '').removesuffix('s')}s"
    if kind == o.Kind.recipes:
        return o.recipe_names(incomplete)
    return o.names_of(kind)(incomplete) if kind in set(o.Kind) else []


def show(
    kind: Annotated[str, typer.Argument(autocompletion=_kinds, help=o.KINDS_HELP)],
    name: Annotated[str, typer.Argument(autocompletion=_names, help="Its name.")],
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            autocompletion=option_keys(),
            help="Option of the backbone to count; repeatable.",
        ),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option("--classes", min=2, help="Count the backbone with a linear classifier of this many classes."),
    ] = None,
    format: Annotated[
        Format, o.format_option(Format.table, Format.json, help="Format of the description on stdout.")
    ] = Format.table,
) -> None:
    """Show a part's documentation and its options with ranges and defaults, or a recipe with every default.

    For a backbone, also its parameters and multiply-adds.
    """
    chosen = o.kind_of(kind)
    _refuse_name_of_another_kind(chosen, name)
    if (sets or classes) and chosen is not o.Kind.backbones:
        raise FslError("--set and --classes are for counting a backbone; leave them out")
    if chosen is o.Kind.recipes:
        from fewshot_cli.config.load import load_recipe

        recipe = load_recipe(name)
        return emit(as_json(recipe.resolved())) if format is Format.json else output.print_recipe(recipe)
    part = _part(chosen, name, sets or [], classes)
    return emit(as_json(part) if format is Format.json else _text(chosen, part))


def _refuse_name_of_another_kind(kind: o.Kind, name: str) -> None:
    """Raise `FslError` for a name that is none of this kind but of another one."""
    from fewshot_cli.config.places import installed_recipes
    from fewshot_cli.registry import entries

    known = {one: installed_recipes() if one is o.Kind.recipes else entries(one) for one in o.Kind}
    others = [one[:-1] for one, names in known.items() if name in names]
    if others and name not in known[kind]:
        what = " and a ".join(others)
        raise FslError(f"{name}: is a {what}, not a {kind[:-1]}; write `fsl show {others[0]} {name}`")


def _part(kind: o.Kind, name: str, sets: list[str], classes: int | None) -> dict[str, Any]:
    """What is known of a part."""
    from fewshot_cli.registry import entries, part

    cls = part(kind, name)
    return {
        "kind": kind[:-1],
        "name": name,
        "package": entries(kind)[name].package,
        "documentation": inspect.getdoc(cls) or "",
        **(_costs(cls, sets, classes) if kind is o.Kind.backbones else _facts(kind, cls)),
        "options": _options(cls.Options),
    }


def _text(kind: o.Kind, part: dict[str, Any]) -> str:
    """What is known of a part, for people."""
    facts = {o.Kind.backbones: _costs_text, o.Kind.solvers: _solver_text, o.Kind.datasets: _dataset_text}
    lines = facts[kind](part) if kind in facts else []
    begin = [f"{part['kind']} {part['name']} (package {part['package']})", "", part["documentation"], ""]
    options = [_option_text(option) for option in part["options"]] or ["  none"]
    return "\n".join([*begin, *lines, *([""] if lines else []), "options:", *options])


def _facts(kind: o.Kind, cls: Any) -> dict[str, Any]:
    """What is specific to one kind of part."""
    if kind is o.Kind.datasets:
        return {"from": cls.source, "licence": cls.licence or None}
    if kind is o.Kind.solvers:
        reason = cls.unavailable_reason()
        facts = {"devices": list(cls.devices), "exact": cls.exact, "gradient": cls.gradient}
        return {**facts, "works_here": reason is None, "reason": reason}
    return {}


def _dataset_text(part: dict[str, Any]) -> list[str]:
    return [f"--from: {part['from']}", f"licence: {part['licence'] or 'see the terms of the dataset itself'}"]


def _solver_text(part: dict[str, Any]) -> list[str]:
    works = "yes" if part["works_here"] else f"no, {part['reason']}"
    return [
        f"devices: {', '.join(part['devices'])}; exact: {'yes' if part['exact'] else 'no'}; gradient: "
        f"{part['gradient']}; works here: {works}"
    ]


def _costs(cls: Any, sets: list[str], classes: int | None) -> dict[str, Any]:
    """Parameters and multiply-adds of a backbone, alone or with a linear classifier."""
    from torch import nn

    from fewshot_cli.config import overrides
    from fewshot_cli.config.load import validate_options
    from fewshot_cli.profiling.costs import count

    network = cls(validate_options(cls.Options, overrides.options(sets), "--set"))
    if classes:
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(network.channels, classes))
        network = nn.Sequential(network, pooled)
    counts = {side: count(network, side) for side in _SIDES}
    return {
        "classes": classes,
        "parameters": counts[_SIDES[0]].parameters,
        "multiply_adds": {str(side): cost.multiply_adds for side, cost in counts.items()},
        "multiply_adds_with_batch_norm": {str(side): cost.multiply_adds_bn for side, cost in counts.items()},
    }


def _costs_text(part: dict[str, Any]) -> list[str]:
    counted = f" with a linear classifier of {part['classes']} classes" if part["classes"] else ""
    with_norm = part["multiply_adds_with_batch_norm"]
    return [
        f"{part['parameters'] / 1e6:.4f} M parameters{counted}; multiply-adds per image "
        "(in parentheses: counting 2 more per batch-norm value):",
        *(
            f"  {side}×{side}: {count / 1e6:,.1f} M ({with_norm[side] / 1e6:,.1f} M)"
            for side, count in part["multiply_adds"].items()
        ),
    ]


def _options(model: Any) -> list[dict[str, Any]]:
    """What each option may be: its types or choices, bounds, default and description."""
    out = []
    for key, field in model.model_json_schema().get("properties", {}).items():
        types = field.get("enum") or [field.get("type") or "/".join(kind.get("type", "?") for kind in field["anyOf"])]
        out.append(
            {
                "name": key,
                "type": [str(kind) for kind in types],
                "bounds": {word: field[word] for word in _BOUNDS if word in field},
                "default": field.get("default"),
                "description": field.get("description"),
            }
        )
    return out


def _option_text(option: dict[str, Any]) -> str:
    bounds = ", ".join(f"{_BOUNDS[word]} {bound}" for word, bound in option["bounds"].items())
    line = f"  {option['name']}: {' | '.join(option['type'])}{' ' + bounds if bounds else ''}"
    line += f", default {option['default']}"
    return line + (f" — {option['description']}" if option["description"] else "")
