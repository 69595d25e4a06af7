"""How every kernel is compiled: `njit`, which keeps machine code in a folder of its own for each state of the sources.

Numba would keep a function's machine code until the function's own file changes, although the code holds whatever the
function calls: after an edit of a vector operation the old one would go on running. Here one folder, named by a hash
of all kernels' sources, holds the code of all of them. It is given to each function's cache directly, so that nothing
of Numba's configuration changes, which belongs to the whole process.
"""

import inspect
import pickle
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from hashlib import sha256
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.runtime.nrt import rtsys
from platformdirs import user_cache_path

import fewshot_cli
from fewshot_cli.runtime.console import say

PACKAGE = fewshot_cli.__name__
# Products and sums may be rounded once; scalars stay in order, for whether a loop becomes vectors can depend on where
# its arrays lie, and with it the last bit of a reordered sum.
FLOATS: dict[str, Any] = {"fastmath": {"contract", "nsz"}, "error_model": "numpy"}


def njit(function: Callable[..., Any] | None = None, /, *, title: str = "", **options: Any) -> Any:
    """Compile a function without the interpreter's lock; for use with or without arguments as a decorator.

    `options` are `numba.njit`'s. A function that Python calls has a `title`, which says on stderr what is being
    compiled when there is no machine code of it yet.
    """
    if function is None:
        return partial(njit, title=title, **options)
    dispatcher = numba.njit(nogil=True, **options)(function)
    dispatcher._cache = _Cache(function, title)
    return dispatcher


def folder() -> Path:
    """Where machine code is kept: in the user's cache, or in NUMBA_CACHE_DIR if that is set."""
    chosen: str = numba.config.CACHE_DIR  # type: ignore[attr-defined]  # set at run time
    return (Path(chosen) / "fsl" if chosen else user_cache_path("fsl", appauthor=False)) / f"kernels-{state()}"


def unwritable_reason(place: Path) -> str | None:
    """None when machine code can be kept in this folder, which is made, else why not."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


@cache
def state() -> str:
    """A hash of all kernels' sources in this package."""
    return _digest(sources())


@cache
def sources() -> frozenset[Path]:
    """All of `kernels/`, every module of this package that compiles something, and what these import of it."""
    users = ((name, path) for name, path in _modules() if njit.__name__.encode() in path.read_bytes())
    return frozenset({*Path(__file__).parent.glob("*.py"), *_closure(users)})


def _modules() -> Iterator[tuple[str, Path]]:
    """Name and file of every module of this package."""
    for root in map(Path, fewshot_cli.__path__):
        packages = (top for top in root.iterdir() if top.name != PACKAGE and (top / "__init__.py").is_file())
        for path in (*root.glob("*.py"), *(path for top in packages for path in top.rglob("*.py"))):
            yield ".".join((PACKAGE, *path.relative_to(root).with_suffix("").parts)), path


def _closure(modules: Iterable[tuple[str, Path]]) -> set[Path]:
    """The files of modules and of all that they import from their own package, or from that of the kernels."""
    todo, seen = list(modules), set()
    while todo:
        name, path = todo.pop()
        if path in seen or path.parent == Path(__file__).parent:  # the kernels' package is whole in every hash
            continue
        seen.add(path)
        for other in _imports(name, path):
            if other.partition(".")[0] in (PACKAGE, name.partition(".")[0]) and (source := _file(other)):
                todo.append((other, source))
    return seen


# To parse 50 files takes a tenth of a second in every process. What a text in quotes says is taken too, and is no file.
_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(\.*)([\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)|import[ \t]+([^\n]*))", re.MULTILINE
)


def _imports(name: str, path: Path) -> Iterator[str]:
    """Names that a module imports, which may be modules or something in them."""
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for dots, module, given, whole in _IMPORT.findall(path.read_text("utf-8")):
        names = [part.split()[0] for part in (given or whole).strip("()").replace("\n", ",").split(",") if part.split()]
        if whole:
            yield from names
            continue
        base = resolve_name(dots + module, package) if dots else module
        yield base
        yield from (f"{base}.{one}" for one in names if one.isidentifier())


def _file(name: str) -> Path | None:
    """The file of a module whose package is loaded, None where the name is not a module's."""
    top, *rest = name.split(".")
    for root in getattr(sys.modules.get(top), "__path__", ()):
        path = Path(root, *rest)
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if file.is_file():
                return file
    return None


def _digest(paths: Iterable[Path]) -> str:
    return sha256(b"".join(path.read_bytes() for path in sorted(paths))).hexdigest()[:12]


@cache
def _stamp(module: str, file: Path) -> str:
    """What machine code depends on besides the folder it lies in: the sources of a kernel that `sources` has not."""
    return "" if file in sources() else _digest(_closure([(module, file)]))


class _Locator(_CacheLocator):
    """Says where a function's machine code is kept and what it depends on."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function, self._py_file = function, inspect.getfile(function)  # the file by the name Numba warns with

    def get_cache_path(self) -> str:
        return str(folder())

    def get_source_stamp(self) -> str:
        return _stamp(self._function.__module__, Path(self._py_file))

    def get_disambiguator(self) -> str:
        return str(self._function.__code__.co_firstlineno)


class _Impl(CompileResultCacheImpl):
    """Names files by module and function. The base class would choose a locator by Numba's configuration."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._lineno, self._locator = function.__code__.co_firstlineno, _Locator(function)
        name = f"{function.__module__}.{function.__qualname__}"
        self._filename_base = self.get_filename_base(name, getattr(sys, "abiflags", ""))


class _Cache(FunctionCache):
    """A function's machine code on disk. What cannot be read is compiled; what cannot be kept is reported once."""

    _impl_class = _Impl

    def __init__(self, function: Callable[..., Any], title: str) -> None:
        super().__init__(function)
        self._title = title

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            # The base class first loads all that a compiler needs, which takes half a second; of that, this code needs
            # the memory manager alone.
            rtsys.initialize(target_context)
            with self._guard_against_spurious_io_errors():
                code = self._load_overload(sig, target_context)
        except (OSError, EOFError, pickle.UnpicklingError):
            code = None
        if code is None and self._title:
            _announce(self._title, self.cache_path)
        return code

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _warn(self.cache_path, error.strerror or str(error))


@cache
def _announce(title: str, place: str) -> None:
    """Say, once in a process, what is being compiled."""
    reason = unwritable_reason(Path(place))
    if reason is None:
        say(f"compiling {title}, once for this machine …")
    else:
        _warn(place, reason)
        say(f"compiling {title} …")


_warned: set[str] = set()


def _warn(place: str, reason: str) -> None:
    """Say, once in a process, that nothing can be kept."""
    if place not in _warned:
        _warned.add(place)
        say(
            f"note: compiled kernels cannot be kept in {place} ({reason}), so every process compiles them anew; "
            "set NUMBA_CACHE_DIR to a folder that can be written to"
        )
