"""`fsl init`: five questions, and a commented recipe of one's own."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from fewshot_cli.cli import options as o
from fewshot_cli.cli.output import say_next
from fewshot_cli.errors import DataError, FslError
from fewshot_cli.runtime.console import say

if TYPE_CHECKING:  # importing it would import pydantic for --help
    from fewshot_cli.config.starter import Answers

T = TypeVar("T")


def init(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="The recipe file to write.")] = Path("mine.yaml"),
    photos: Annotated[
        Path | None, typer.Option("--photos", help="Your own photos: a folder with a folder for each class.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", autocompletion=o.names_of("datasets"), help="A benchmark, in place of --photos."),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", autocompletion=o.names_of("backbones"), help="The network.")
    ] = None,
    shots: Annotated[
        int | None, typer.Option("--shots", min=1, max=1000, help="Labelled images of each class.")
    ] = None,
    gpu: Annotated[bool | None, typer.Option("--gpu/--no-gpu", help="Whether there is a GPU to train on.")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask nothing; take the default of what is not given.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    data_root: o.DataRoot = None,
) -> None:
    """Write a recipe of your own, with comments, from five answers: which data, whose, backbone, shots, GPU.

    An option answers its question beforehand; in a script give --yes.
    """
    from fewshot_cli.cli import next_step
    from fewshot_cli.config.load import parse_recipe
    from fewshot_cli.config.starter import IMAGES, written
    from fewshot_cli.runtime.files import write_text

    o.refuse_existing(file, force)
    if photos is not None and dataset is not None:
        raise FslError("--photos and --dataset both say which images the recipe is for; give one of them")
    answers = _answers(_Asking(yes), photos, dataset, backbone, shots, gpu)
    text = written(answers, str(file))
    recipe = parse_recipe(text, file)
    write_text(file, text)
    say(f"wrote {file}: {recipe.description}")
    if answers.dataset == IMAGES:
        say(f"to label photos at once: fsl classify PHOTOS --support {answers.source} --recipe {file}")
    say_next(next_step.for_recipe(str(file), recipe, o.data_root(data_root), answers.source))


class _Asking:
    """Questions on the terminal, numbered, each until its answer is one; the default without a terminal and `--yes`."""

    def __init__(self, yes: bool) -> None:
        self.yes, self.number = yes, 0

    def ask(self, given: object, option: str, question: str, default: str | None, check: Callable[[str], T]) -> T:
        """What the check makes of what an option gave, or of the answer. Raises `FslError` where nobody can answer."""
        self.number += 1
        if given is not None:
            return check(str(given))
        if self.yes and default is not None:
            return check(default)
        if not sys.stdin.isatty():
            raise FslError(
                f"fsl init asks questions, and nobody can answer here; give {option}, or --yes for the defaults of "
                "all that is not given"
            )
        while True:
            try:
                answer = typer.prompt(f"{self.number}/5  {question}", default=default, err=True)
            except typer.Abort:
                say("\ninterrupted: no recipe was written")
                raise
            try:
                return check(answer.strip())
            except FslError as error:
                say(str(error))


def _answers(
    asking: _Asking, photos: Path | None, dataset: str | None, backbone: str | None, shots: int | None, gpu: bool | None
) -> "Answers":
    """The answers, by options or by asking."""
    from fewshot_cli.config.starter import IMAGES, Answers, backbones, benchmarks

    kind = None if photos is None and dataset is None else "photos" if dataset is None else "benchmark"
    own = asking.ask(kind, "--photos or --dataset", "Your own photos, or a benchmark?", "benchmark", _kind) == "photos"
    source: Path | None = None
    if own:
        source = asking.ask(photos, "--photos", "Their folder, with a folder for each class", None, _folder)
        name = IMAGES
    else:
        known = benchmarks()
        question = f"Which benchmark? {_numbered(known)}"
        name = asking.ask(dataset, "--dataset", question, "glyphs", lambda text: _one_of(text, known, "benchmark"))
    fitting = backbones(name)
    chosen = asking.ask(
        backbone,
        "--backbone",
        f"Which backbone? {_numbered(fitting)}",
        _best(name, fitting),
        lambda text: _one_of(text, fitting, f"backbone with recipes for {name}"),
    )
    number = asking.ask(shots, "--shots", "How many labelled images of each class (shots)?", "1", _count)
    trains = asking.ask(_yes_or_no(gpu), "--gpu or --no-gpu", "Is there a GPU to train on?", _gpu_here(), _is_yes)
    way, query = _room(source, number) if source is not None else (5, 15)
    store = _store(source) if source is not None else name
    return Answers(name, store, chosen, number, trains, way, query, source)


def _kind(text: str) -> str:
    for word in ("photos", "benchmark"):
        if text and word.startswith(text.lower()):
            return word
    raise FslError(f"{text}: answer photos or benchmark")


def _folder(text: str) -> Path:
    folder = Path(text).expanduser()
    if not folder.exists():
        raise FslError(f"{text}: no such file or folder; give a folder with a folder of photos for each class")
    return folder


def _numbered(names: list[str]) -> str:
    return ", ".join(f"{number} {name}" for number, name in enumerate(names, 1))


def _one_of(text: str, known: list[str], what: str) -> str:
    """One of these by its name, or by its number in the list."""
    from fewshot_cli.registry import did_you_mean

    if text.isdigit() and 1 <= int(text) <= len(known):
        return known[int(text) - 1]
    if text not in known:
        raise FslError(f"{text}: no {what}{did_you_mean(text, known)}; choose one of {', '.join(known)}")
    return text


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 1000:
        raise FslError(f"{text}: shots are a number from 1 to 1000")
    return int(text)


def _is_yes(text: str) -> bool:
    if text.lower() not in ("y", "yes", "n", "no"):
        raise FslError(f"{text}: answer yes or no")
    return text.lower().startswith("y")


def _yes_or_no(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


def _gpu_here() -> str:
    """Whether the driver of a GPU is here; to ask PyTorch would take seconds."""
    return "yes" if any(Path("/dev").glob("nvidia[0-9]*")) else "no"


def _best(dataset: str, fitting: list[str]) -> str:
    """The first backbone whose weights are at hand, else the first."""
    from fewshot_cli.config.starter import Answers, base_of
    from fewshot_cli.weights.at_hand import at_hand

    for name in fitting:
        if at_hand(base_of(Answers(dataset, dataset, name, 1, False))) is not None:
            return name
    return fitting[0]


def _store(folder: Path) -> str:
    """A name for the store of one's own photos, which is none of a dataset."""
    from fewshot_cli.registry import entries

    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.resolve().name.partition(".")[0]).lstrip("_.-")[:100] or "photos"
    return f"{name}-photos" if name in entries("datasets") else name


def _room(source: Path, shots: int) -> tuple[int, int]:
    """Way and queries of episodes for which one's own photos will do. Raises `DataError` where there are no classes."""
    from fewshot_cli import registry
    from fewshot_cli.data.survey import survey

    classes = survey(registry.dataset("images")(), [source], source)["classes"]
    tested = classes.get("test", {})
    if sum(map(len, classes.values())) < 2:
        raise DataError(
            f"{source}: holds one class only; give a folder with a folder of photos for each of two or more"
        )
    if len(tested) < 2:
        say("note: too few classes are left for testing; `fsl classify` works all the same")
    return max(2, min(5, len(tested))), max(1, min(15, min(tested.values(), default=16) - shots))
