"""`fsl show`: the documentation and options of a part, or a recipe with every default."""

import inspect
from typing import Annotated, Any

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli import output
from fewshot_cli.errors import FslError
from fewshot_cli.runtime.console import emit

_SIDES = (32, 84, 224)  # of the images that a backbone's multiply-adds are counted for
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def _names(ctx: typer.Context, incomplete: str) -> list[str]:
    kind = f"{str(ctx.params.get('kind') or '').removesuffix('s')}s"
    if kind == o.Kind.recipes:
        return o.recipe_names(incomplete)
    return o.names_of(kind)(incomplete) if kind in set(o.Kind) else []


def show(
    kind: Annotated[str, typer.Argument(help="solver, head, backbone, classifier, extractor, dataset or recipe.")],
    name: Annotated[str, typer.Argument(autocompletion=_names, help="Its name.")],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Option of the backbone to count; repeatable."),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option("--classes", min=2, help="Count the backbone with a linear classifier of this many classes."),
    ] = None,
) -> None:
    """Show a part's documentation and its options with ranges and defaults, or a recipe with every default.

    For a backbone, also its parameters and multiply-adds.
    """
    chosen = _kind(kind)
    if (sets or classes) and chosen is not o.Kind.backbones:
        raise FslError("--set and --classes are for counting a backbone; leave them out")
    if chosen is o.Kind.recipes:
        from fewshot_cli.config.load import load_recipe

        return output.print_recipe(load_recipe(name))
    return emit(_part(chosen, name, sets or [], classes))


def _kind(text: str) -> o.Kind:
    """The kind by its singular or plural."""
    plural = f"{text.removesuffix('s')}s"
    if plural not in set(o.Kind):
        from fewshot_cli.registry import did_you_mean

        raise FslError(
            f"{text}: no such kind{did_you_mean(plural, map(str, o.Kind))}; choose one of {', '.join(sorted(o.Kind))}"
        )
    return o.Kind(plural)


def _part(kind: o.Kind, name: str, sets: list[str], classes: int | None) -> str:
    from fewshot_cli.registry import entries, part

    cls = part(kind, name)
    facts = _costs(cls, sets, classes) if kind is o.Kind.backbones else _facts(kind, cls)
    lines = [f"{kind[:-1]} {name} (package {entries(kind)[name].package})", "", inspect.getdoc(cls) or "", ""]
    return "\n".join([*lines, *facts, *([""] if facts else []), "options:", *_options(cls.Options)])


def _facts(kind: o.Kind, cls: Any) -> list[str]:
    """What is specific to one kind of part."""
    if kind is o.Kind.datasets:
        return [f"--from: {cls.source}", f"licence: {cls.licence or 'see the terms of the dataset itself'}"]
    if kind is o.Kind.solvers:
        reason = cls.unavailable_reason()
        return [
            f"devices: {', '.join(cls.devices)}; exact: {'yes' if cls.exact else 'no'}; gradient: {cls.gradient}; "
            f"works here: {'yes' if reason is None else 'no, ' + reason}"
        ]
    return []


def _costs(cls: Any, sets: list[str], classes: int | None) -> list[str]:
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
    counted = f" with a linear classifier of {classes} classes" if classes else ""
    return [
        f"{counts[_SIDES[0]].parameters / 1e6:.4f} M parameters{counted}; multiply-adds per image "
        "(in parentheses: counting 2 more per batch-norm value):",
        *(
            f"  {side}×{side}: {cost.multiply_adds / 1e6:,.1f} M ({cost.multiply_adds_bn / 1e6:,.1f} M)"
            for side, cost in counts.items()
        ),
    ]


def _options(model: Any) -> list[str]:
    """One line for each option: type or choices, bounds, default and description."""
    lines = []
    for key, field in model.model_json_schema().get("properties", {}).items():
        bounds = ", ".join(f"{sign} {field[word]}" for word, sign in _BOUNDS.items() if word in field)
        types = field.get("enum") or [field.get("type") or "/".join(kind.get("type", "?") for kind in field["anyOf"])]
        line = f"  {key}: {' | '.join(map(str, types))}{' ' + bounds if bounds else ''}, default {field.get('default')}"
        lines.append(line + (f" — {field['description']}" if "description" in field else ""))
    return lines or ["  none"]
