"""Name → part by entry point; a part's module is imported only when the part is used."""

import difflib
import sys
import tomllib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_cli.errors import RecipeError

if TYPE_CHECKING:  # the contracts import PyTorch, which a list of names must not wait for
    from fewshot_cli.contracts import Backbone, Classifier, DatasetBuilder, Extractor, Head, Solver

KINDS = ("solvers", "backbones", "heads", "classifiers", "extractors", "datasets")


@dataclass(frozen=True)
class Entry:
    """One registered part: its name, the distribution it comes from and how to import it."""

    name: str
    package: str
    point: EntryPoint
    rival: str | None = None  # another package with a part of this name

    @property
    def built_in(self) -> bool:
        """Whether it ships with this package."""
        return self.point.value.startswith("fewshot_cli.")

    def refuse_rival(self) -> None:
        """Raise `RecipeError` when two packages have something of this name: neither is meant more than the other."""
        if self.rival is not None:
            raise RecipeError(
                f"{self.name}: the packages {self.package} and {self.rival} both have one of this name; uninstall one"
            )

    def load(self) -> Any:
        """The part's class. Raises `RecipeError` naming the package when its module cannot be imported, whatever it
        raises or does, and when two packages have a part of this name.
        """
        self.refuse_rival()
        try:
            return self.point.load()
        except (Exception, SystemExit) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise RecipeError(
                f"{self.name}: {self.point.value} of package {self.package} does not import ({reason}); "
                f"reinstall {self.package}"
            ) from error


@cache
def entries(kind: str) -> dict[str, Entry]:
    """All registered parts of a kind (one of `KINDS`), by name, sorted."""
    group = f"fewshot_cli.{kind}"
    known = {p.name: Entry(p.name, "fewshot-cli", p) for p in _checkout_points(group)}
    for p in _installed_points(tuple(sys.path)).select(group=group):
        package, other = p.dist.name if p.dist else "unknown", known.get(p.name)
        rival = other.package if other and other.package != package and other.point.value != p.value else None
        known[p.name] = Entry(p.name, package, p, rival)
    return dict(sorted(known.items()))


@cache
def _installed_points(path: tuple[str, ...]) -> Any:
    """The entry points of everything that is installed on this path of modules, which takes a while to look through."""
    return entry_points()


def _checkout_points(group: str) -> Iterable[EntryPoint]:
    """The built-in entry points of a checkout that is run without having been installed."""
    return [EntryPoint(name, value, group) for name, value in _checkout_table().get(group, {}).items()]


@cache
def _checkout_table() -> dict[str, dict[str, str]]:
    project = Path(__file__).resolve().parent.parent / "pyproject.toml"
    if not project.is_file():
        return {}
    table: dict[str, dict[str, str]] = tomllib.loads(project.read_text("utf-8"))["project"].get("entry-points", {})
    return table


def part(kind: str, name: str) -> Any:
    """The class registered as `name`. Raises `RecipeError` with the nearest names when there is none."""
    known = entries(kind)
    if name not in known:
        hint = of_another_kind(name) or did_you_mean(name, known)
        raise RecipeError(f"unknown {kind[:-1]} {name!r}{hint}; `fsl list {kind}` shows all")
    return known[name].load()


def solver(name: str) -> "type[Solver[Any]]":
    """The solver class `name`. Raises as `part`."""
    return part("solvers", name)


def backbone(name: str) -> "type[Backbone[Any]]":
    """The backbone class `name`. Raises as `part`."""
    return part("backbones", name)


def head(name: str) -> "type[Head[Any]]":
    """The head class `name`. Raises as `part`."""
    return part("heads", name)


def classifier(name: str) -> "type[Classifier[Any]]":
    """The classifier class `name`. Raises as `part`."""
    return part("classifiers", name)


def extractor(name: str) -> "type[Extractor[Any]]":
    """The extractor class `name`. Raises as `part`."""
    return part("extractors", name)


def dataset(name: str) -> "type[DatasetBuilder[Any]]":
    """The dataset builder `name`. Raises as `part`."""
    return part("datasets", name)


def working_solvers() -> list[str]:
    """Names of the solvers that can run here. Raises `RecipeError` when one cannot even be imported."""
    return [name for name in entries("solvers") if solver(name).unavailable_reason() is None]


def able(kind: str, ability: type) -> list[str]:
    """Names of the parts of a kind that have an ability, a protocol of `contracts`; this package's own come first.

    Parts that do not import have none.
    """
    names = []
    for name, entry in entries(kind).items():
        with suppress(RecipeError):
            if issubclass(entry.load(), ability):
                names.append(name)
    return sorted(names, key=lambda name: not entries(kind)[name].built_in)


def of_another_kind(name: str) -> str:
    """` (emd is a head)` for a name of some part, recipe or weights, where it was taken for something else; or the
    empty string.
    """
    kinds = [f"{'an' if kind[0] in 'aeiou' else 'a'} {kind[:-1]}" for kind in KINDS if name in entries(kind)]
    kinds += ["a recipe"] if name.removesuffix(".yaml") in _recipe_names() else []
    kinds += ["the name of weights"] if name in entries("weights") else []
    return f" ({name} is {' and '.join(kinds)})" if kinds else ""


def _recipe_names() -> list[str]:
    import fewshot_cli.recipes as folder

    return [path.stem for path in Path(folder.__path__[0]).glob("*.yaml")]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean X?)` with the nearest known name, or the empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {str(near[0])!r}?)" if near else ""
