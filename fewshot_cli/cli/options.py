"""Options common to several verbs, declared once, and the completion of names."""

import os
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewshot_cli.cli import completion
from fewshot_cli.errors import FslError
from fewshot_cli.runtime import roots
from fewshot_cli.runtime.console import say
from fewshot_cli.runtime.render import Format

if TYPE_CHECKING:
    from fewshot_cli.data.user_images import Taking

# Panels of the help, for `rich_help_panel`; a panel of any other title is shown, too. An option without one stands in
# OPTIONS.
OPTIONS, RESULT, RUN = "Options", "Result", "Run"
MACHINE, MANNERS, RARELY = "Machine", "Messages and help", "Rarely needed"
RARE = (MACHINE, RARELY, MANNERS)  # shown by --help-all only

RECIPE_ARGUMENT = "recipe_argument"  # the parameter by which verbs with --recipe take it as an argument
DEFAULT_RECIPE, BENCHMARK_RECIPE = "glyphs_5w1s", "cifar_fs_5w1s_conv64"


data_root = roots.data_root


class Kind(StrEnum):
    """The kinds that `fsl list` and `fsl show` accept."""

    solvers = "solvers"
    heads = "heads"
    backbones = "backbones"
    classifiers = "classifiers"
    extractors = "extractors"
    datasets = "datasets"
    recipes = "recipes"


KINDS_HELP = "solvers, heads, backbones, classifiers, extractors, datasets or recipes."


class LogTo(StrEnum):
    """The loggers that training writes to."""

    csv = "csv"
    mlflow = "mlflow"
    tensorboard = "tensorboard"
    wandb = "wandb"


def kinds(incomplete: str) -> list[str]:
    """The kinds that begin with this text, for completion."""
    return [kind for kind in Kind if kind.startswith(incomplete)]


def kind_of(text: str) -> Kind:
    """The kind by its singular or plural. Raises `FslError` for another word."""
    plural = f"{text.removesuffix('s')}s"
    if plural not in set(Kind):
        from fewshot_cli.registry import did_you_mean

        raise FslError(
            f"{text}: no such kind{did_you_mean(plural, map(str, Kind))}; choose one of {', '.join(sorted(Kind))}"
        )
    return Kind(plural)


def recipe_names(incomplete: str) -> list[str]:
    """The installed recipes and the recipe files that begin with this text, for completion."""
    from fewshot_cli.config.places import installed_recipes

    below = [path for path in _beside(incomplete) if path.is_dir() or path.suffix == ".yaml"]
    return [name for name in (*installed_recipes(), *_written(below)) if name.startswith(incomplete)]


def weights_names(incomplete: str) -> list[str]:
    """The installed weights and the weights files that begin with this text, for completion."""
    from fewshot_cli.weights.installed import names

    below = [path for path in _beside(incomplete) if path.is_dir() or path.suffix in (".safetensors", ".pth", ".pt")]
    return [name for name in (*names(), *_written(below)) if name.startswith(incomplete)]


def _beside(incomplete: str) -> Iterator[Path]:
    """What lies in the folder that an unfinished path is in, without what is hidden."""
    folder = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    return (path for path in folder.glob("*") if not path.name.startswith("."))


def _written(paths: list[Path]) -> list[str]:
    return sorted(f"{path}/" if path.is_dir() else str(path) for path in paths)


def names_of(kind: str) -> Callable[[str], list[str]]:
    """A completion function for the registered parts of a kind."""

    def complete(incomplete: str) -> list[str]:
        from fewshot_cli.registry import entries

        return [name for name in entries(kind) if name.startswith(incomplete)]

    return complete


def format_option(*formats: Format, help: str = "Format of the result on stdout:") -> Any:
    """`--format` of a verb that supports these formats; another one is a usage error."""
    choice = one_of(map(str, formats))

    def parse(text: str) -> Format:
        if text not in formats:
            raise FslError(f"--format {text or repr(text)}: give {choice}")
        return Format(text)

    def complete(incomplete: str) -> list[str]:
        return [str(form) for form in formats if form.startswith(incomplete)]

    return typer.Option(
        "--format",
        parser=parse,
        metavar="FORMAT",
        autocompletion=complete,
        rich_help_panel=RESULT,
        help=f"{help.rstrip('.:')}: {choice}.",
    )


def one_of(words: Iterable[str]) -> str:
    """Words as a choice in a sentence: `a, b or c`."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


Recipe = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        autocompletion=recipe_names,
        metavar="NAME",
        help="Name of an installed recipe, or path of a recipe file.",
    ),
]
PhotoRecipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "-r",
        autocompletion=recipe_names,
        metavar="NAME",
        help="Name of an installed recipe, or path of a recipe file (default: the best for photos that is installed).",
    ),
]
Solver = Annotated[
    str | None,
    typer.Option(
        "--solver", metavar="NAME", autocompletion=names_of("solvers"), help="Solver, in place of the recipe's."
    ),
]
RareSolver = Annotated[
    str | None,
    typer.Option(
        "--solver",
        metavar="NAME",
        autocompletion=names_of("solvers"),
        rich_help_panel=RARELY,
        help="Solver, in place of the recipe's.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        autocompletion=completion.recipe_keys,
        help="Override a key of the recipe; repeatable.",
    ),
]
Device = Annotated[
    str, typer.Option("--device", rich_help_panel=MACHINE, help="Where to compute: auto, cpu, cuda or cuda:N.")
]
Seed = Annotated[
    int | None, typer.Option("--seed", min=0, help="Seed of all that is drawn (default: the recipe's, mostly 1).")
]
Episodes = Annotated[
    int | None,
    typer.Option("--episodes", min=1, help="Number of episodes (default: the recipe's, mostly 600)."),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        envvar="FSL_DATA_ROOT",
        file_okay=False,
        rich_help_panel=RUN,
        help="Folder of the prepared datasets and cached features.",
    ),
]
RunDir = Annotated[
    Path | None,
    typer.Option(
        "--run-dir",
        file_okay=False,
        autocompletion=completion.run_folders,
        rich_help_panel=RUN,
        help="Folder of this run (default: runs/VERB/NAME).",
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", rich_help_panel=RUN, help="Continue the run in --run-dir, or the newest run of this recipe."
    ),
]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", rich_help_panel=RARELY, help="Print the resolved recipe as YAML and stop.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", rich_help_panel=RARELY, help="Check recipe, data, weights and solver, then stop.")
]
ClassLevel = Annotated[
    int | None,
    typer.Option(
        "--class-level",
        rich_help_panel=RARELY,
        min=1,
        max=9,
        help="Where images lie in folders of folders: the classes are the first folders (1), the second (2), …",
    ),
]
SkipBad = Annotated[
    bool,
    typer.Option(
        "--skip-bad",
        rich_help_panel=RARELY,
        help="Go on without images that cannot be used, and report which they are.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="NAME",
        dir_okay=False,
        autocompletion=weights_names,
        help="Weights file, or the name of installed weights, in place of the recipe's.",
    ),
]
Devices = Annotated[
    int | None,
    typer.Option(
        "--devices",
        min=1,
        rich_help_panel=MACHINE,
        help="Processes per node, one per GPU (default: 1, or torchrun's number).",
    ),
]
Nodes = Annotated[
    int | None,
    typer.Option(
        "--num-nodes", min=1, rich_help_panel=MACHINE, help="Number of nodes (default: 1, or torchrun's number)."
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        "--precision", rich_help_panel=MACHINE, help="Precision of the backbone, 32 or bf16, in place of the recipe's."
    ),
]
Log = Annotated[
    list[LogTo] | None,
    typer.Option(
        "--log",
        rich_help_panel=RARELY,
        metavar="LOGGER",
        help=f"Also write every epoch to {one_of(map(str, LogTo))}; repeatable.",
    ),
]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", hidden=True, help="The earlier name of --log tensorboard.")]
Support = Annotated[
    Path,
    typer.Option(
        "--support", metavar="FOLDER", help="Folder or archive of labelled examples, stored as <class>/<image>."
    ),
]


def loggers(log: list[LogTo] | None, tensorboard: bool) -> list[str]:
    """The loggers that `--log` names, and the one that `--tensorboard` means, an option of earlier versions."""
    if tensorboard:
        say("note: --tensorboard is now --log tensorboard; it is understood, but please write the new one")
    return [*(log or []), *(["tensorboard"] if tensorboard else [])]


def taking(folder: Path | None, option: str, class_level: int | None, skip_bad: bool) -> "Taking":
    """How a folder of one's own, which an option names, is taken. Raises `FslError` where there is none to take so."""
    from fewshot_cli.data.user_images import Taking

    if folder is None and (class_level or skip_bad):
        raise FslError(
            f"--class-level and --skip-bad are for folders of your own: give {option} too, or leave them out"
        )
    return Taking(class_level, skip_bad)


def photo_recipe(given: str | None, shots: int, photos: bool = True) -> str:
    """`--recipe`, or the best for own photos with one or several examples (`shots` is 1 or 5) of each class; where no
    `photos` are given, one whose dataset is a benchmark.
    """
    from fewshot_cli.predict.defaults import recipe_for_photos

    return given or (recipe_for_photos(shots) if photos else BENCHMARK_RECIPE)


def told_elsewhere(old: str, new: str) -> None:
    """Say that an old spelling is understood, and what to write now."""
    say(f"note: {old} is an old spelling, which still works; write {new}")


def refuse_existing(out: Path, force: bool) -> None:
    """Raise `FslError` for a file that is in the way of a result without `--force`."""
    if out.exists() and not force:
        raise FslError(f"{out}: already exists; give another name, or --force to replace it")


def as_sets(values: dict[str, Any]) -> list[str]:
    """The `--set` texts equivalent to other options; one that is None was not given."""
    from fewshot_cli.config import overrides

    return [overrides.written(key, value) for key, value in values.items() if value is not None]


def _shown_data_root() -> str:
    """The data root as help shows it."""
    if given := os.environ.get("FSL_DATA_ROOT"):
        return f"$FSL_DATA_ROOT, {given}"
    home = os.path.expanduser("~")
    path = str(data_root(None))
    return f"~{path.removeprefix(home)}" if path.startswith(f"{home}/") else path


# What help shows as the default of a parameter of this name
DEFAULTS: dict[str, Callable[[], str]] = {"data_root": _shown_data_root}
