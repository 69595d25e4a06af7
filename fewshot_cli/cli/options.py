"""Options common to the verbs, declared once, and the completion of names."""

import os
from pathlib import Path
from typing import Annotated

import typer


def _recipes(incomplete: str) -> list[str]:
    from fewshot_cli.config.load import installed_recipes

    return [name for name in installed_recipes() if name.startswith(incomplete)]


def names_of(kind: str):  # noqa: ANN201 - Typer inspects the returned function
    """A completion function for the registered parts of a kind."""

    def complete(incomplete: str) -> list[str]:
        from fewshot_cli.registry import entries

        return [name for name in entries(kind) if name.startswith(incomplete)]

    return complete


Recipe = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        autocompletion=_recipes,
        show_default=True,
        help="A recipe: bare name of an installed one, or a path.",
    ),
]
Solver = Annotated[
    str | None, typer.Option("--solver", autocompletion=names_of("solvers"), help="Solver in place of the recipe's.")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe; repeatable.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed in place of the recipe's.")]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        envvar="FSL_DATA_ROOT",
        file_okay=False,
        help="Folder of the prepared datasets and cached features.",
    ),
]
RunDir = Annotated[
    Path | None, typer.Option("--run-dir", file_okay=False, help="Folder of this run (default: runs/VERB/NAME).")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --run-dir, or the newest of this recipe.")]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print the resolved recipe as YAML and stop.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check recipe, data, weights and solver, then stop.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Weights = Annotated[
    Path | None, typer.Option("--weights", dir_okay=False, help="Weights file in place of the recipe's.")
]
Devices = Annotated[
    int | None,
    typer.Option("--devices", min=1, help="Processes on this machine, one a GPU (default: 1, or torchrun's)."),
]
Nodes = Annotated[
    int | None, typer.Option("--num-nodes", min=1, help="Machines that share the work (default: 1, or torchrun's).")
]
Precision = Annotated[
    str | None, typer.Option("--precision", help="32 or bf16 for the backbone, in place of the recipe's.")
]
Board = Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard's files into the run directory too.")]

DEFAULT_RECIPE = "glyphs_5w1s"


def data_root(given: Path | None) -> Path:
    """`--data-root`, `FSL_DATA_ROOT`, or the user's data folder."""
    if given is not None or os.environ.get("FSL_DATA_ROOT"):
        return given or Path(os.environ["FSL_DATA_ROOT"])
    from platformdirs import user_data_path

    return user_data_path("fsl", appauthor=False)


def with_precision(sets: list[str] | None, verb: str, given: str | None) -> list[str]:
    """The `--set` options with that of `--precision`."""
    return [*(sets or []), *([f"{verb}.precision='{given}'"] if given else [])]


def printed(recipe) -> str:  # noqa: ANN001 - importing Recipe here would import pydantic for --help
    """The resolved recipe as YAML that `--recipe` reads back."""
    import yaml

    data = recipe.resolved()
    return yaml.safe_dump(_flat({k: v for k, v in data.items() if k != "name" and v is not None}), sort_keys=False)


def _flat(data):  # noqa: ANN001, ANN202
    if isinstance(data, dict):
        if set(data) == {"name", "options"}:
            return {"name": data["name"], **_flat(data["options"])}
        return {k: _flat(v) for k, v in data.items() if v is not None}
    return data
