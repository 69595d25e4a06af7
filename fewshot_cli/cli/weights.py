"""`fsl weights list|show|verify|pack`: the weights that installed packages provide, and those of a run for others."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli.completion import run_folders
from fewshot_cli.cli.output import in_format
from fewshot_cli.errors import DataError, FslError
from fewshot_cli.runtime.console import complain, emit, say
from fewshot_cli.runtime.render import Format, as_yaml, plus_minus

if TYPE_CHECKING:  # importing it would import PyTorch for --help
    from fewshot_cli.weights.checkpoint import Checkpoint

app = typer.Typer(help="List, show or verify installed weights, or pack those of a run.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(autocompletion=o.weights_names, help="Name of installed weights, or a file.")]
_Format = Annotated[Format, o.format_option(Format.table, Format.json)]


@app.command("list")
def list_weights(format: _Format = Format.table) -> None:
    """List all weights by name: package, backbone, data, stage, and the accuracy of their validation in training."""
    from fewshot_cli.weights import installed

    rows = [_row(name) for name in installed.names()]
    header = list(rows[0]) if rows else ["name"]
    packages = len({row["package"] for row in rows})
    sentence = f"{len(rows)} weights of {packages} {'package' if packages == 1 else 'packages'}"
    block = (header, [list(row.values()) for row in rows], ("package", "validation %"))
    emit(in_format(format, rows, [block], (), (), sentence))


@app.command()
def show(name: Name, format: _Format = Format.table) -> None:
    """Show what weights are: file, size, data, licence, accuracies, and the recipe that made them."""
    facts = _facts(name)
    if format is Format.json:
        return emit(in_format(format, facts, []))
    recipe = facts.pop("recipe")
    made_by = f"\nmade by this recipe:\n{as_yaml(recipe)}" if recipe else ""
    return emit((as_yaml(facts) + made_by).rstrip())


@app.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(autocompletion=o.weights_names, help="Their names, or files; default: all.")
    ] = None,
) -> None:
    """Verify weights: the hash in the sidecar, finite values, and that the backbone they name takes them."""
    from fewshot_cli.weights import installed

    failed = []
    for name in names or installed.names():
        try:
            _verify(name)
        except FslError as error:
            failed.append(name)
            complain(str(error))
        else:
            say(f"{name}: in order")
    if failed:
        raise DataError(f"not in order: {', '.join(failed)}; reinstall the packages they come from")


@app.command()
def pack(
    run: Annotated[
        Path,
        typer.Argument(
            file_okay=False,
            autocompletion=run_folders,
            help="Directory of a finished pretrain or metatrain run.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", dir_okay=False, help="The .safetensors file to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
) -> None:
    """Write a run's weights in half precision, with the time and machines of their training, to give to others."""
    from fewshot_cli.weights.pack import pack as packed

    sidecar = packed(run, out, force)
    cost = f", {sidecar['epochs']} epochs in {sidecar['seconds']} s of training" if "epochs" in sidecar else ""
    say(f"{out}: {out.stat().st_size / 1e6:.1f} MB{cost}")


def _verify(name: str) -> None:
    from fewshot_cli import registry
    from fewshot_cli.config.load import validate_options

    checkpoint = _load(name)
    spec = dict(checkpoint.sidecar.get("backbone") or {})
    if not isinstance(spec.get("name"), str):
        raise DataError(f"{checkpoint.path}: its sidecar names no backbone; copy both files again")
    cls = registry.backbone(spec.pop("name"))
    checkpoint.fill(cls(validate_options(cls.Options, spec, str(checkpoint.path))), "backbone", "the backbone")


def _load(name: str) -> "Checkpoint":
    from fewshot_cli.weights import checkpoint, find

    return checkpoint.load(find.named(Path(name)))


def _row(name: str) -> dict[str, Any]:
    """A row of the list; weights that cannot be read say why."""
    from fewshot_cli import registry

    begin = {"name": name, "package": registry.entries("weights")[name].package}
    try:
        sidecar = _load(name).sidecar
    except DataError as error:
        return {**begin, "backbone": "-", "data": "-", "stage": "-", "validation %": f"cannot be read: {error}"}
    return {
        **begin,
        "backbone": sidecar.get("backbone", {}).get("name", "-"),
        "data": sidecar.get("dataset", {}).get("name", "-"),
        "stage": sidecar.get("stage", "-"),
        "validation %": _interval(sidecar.get("validation")),
    }


def _facts(name: str) -> dict[str, Any]:
    """All that is known of weights; the accuracies are those that installed recipes expect of them."""
    from fewshot_cli import registry
    from fewshot_cli.config.load import load_recipe
    from fewshot_cli.config.places import installed_recipes

    checkpoint = _load(name)
    sidecar, package = checkpoint.sidecar, registry.entries("weights").get(name)
    tested = {
        recipe.name: entry.accuracy
        for recipe in map(load_recipe, installed_recipes())
        for entry in recipe.expect
        if entry.weights is not None and checkpoint.sha256.startswith(entry.weights)
    }
    parts: dict[str, Any] = {part: sidecar[part] for part in ("backbone", "head", "classifier") if part in sidecar}
    return {
        "name": name,
        "package": package and package.package,
        "file": str(checkpoint.path),
        "bytes": checkpoint.path.stat().st_size,
        "sha256": checkpoint.sha256,
        "stage": sidecar.get("stage"),
        **parts,
        "dataset": sidecar.get("dataset"),
        "validation": sidecar.get("validation"),
        "expected by recipes": tested or None,
        "licence": sidecar.get("licence"),
        "versions": sidecar.get("versions"),
        "recipe": sidecar.get("recipe"),
    }


def _interval(validation: dict[str, float] | None) -> str:
    if not validation or not {"accuracy", "ci95"} <= validation.keys():
        return "-"
    return plus_minus(validation["accuracy"], validation["ci95"])
