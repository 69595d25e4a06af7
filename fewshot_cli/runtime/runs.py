"""A run's directory: what was requested, with which versions, and one line for each episode or epoch."""

import glob
import hashlib
import json
import platform
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import fewshot_cli
from fewshot_cli import registry
from fewshot_cli.errors import DataError
from fewshot_cli.runtime import stop_points
from fewshot_cli.runtime.console import say
from fewshot_cli.runtime.files import explain, guarded, hold, regular, write_json, write_text
from fewshot_cli.runtime.roots import RUNS

if TYPE_CHECKING:
    from fewshot_cli.runtime.processes import Processes

T = TypeVar("T")

CONFIG, SUMMARY, TIMES = "config.json", "summary.json", "times.jsonl"
SECONDS = "seconds.json"  # a summary's wall-clock times, apart from it, so that equal runs have equal summaries


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    releases = {"fewshot-cli": fewshot_cli.__version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "opencv-python-headless", "POT"):
        try:
            releases[name] = version(name)
        except PackageNotFoundError:
            continue
    return releases


def _providers(recipe: Mapping[str, Any]) -> dict[str, str]:
    """The package and version that each part of a recipe comes from."""
    out = {}
    for section in ("dataset", "backbone", "extractor", "head", "solver"):
        part = recipe.get(section)
        if not isinstance(part, dict):
            continue
        entry = registry.entries(f"{section}s").get(part["name"])
        if entry is not None:
            with suppress(PackageNotFoundError):
                out[section] = f"{part['name']} of {entry.package} {version(entry.package)}"
    return out


class Run:
    """One run directory, new or resumed.

    `identity` decides whether a directory may be resumed: same identity, same result. Raises `DataError` when the
    directory holds another run, or one that was not asked to be resumed. Of several processes one writes (`shared`).
    """

    writes = True

    @classmethod
    def shared(cls, processes: "Processes", *arguments: Any) -> Self:
        """A run that the first process makes and alone writes to."""
        run = processes.first(lambda: cls(*arguments))
        run.writes = processes.rank == 0
        return run

    def __init__(self, path: Path, verb: str, recipe: dict[str, Any], identity: dict[str, Any], resume: bool) -> None:
        self.path = path
        place = path.resolve()
        weakref.finalize(self, _reserved.pop(place) if place in _reserved else _keep(path))
        self.key = fingerprint({"verb": verb, **identity})
        self.mark = self.key[:12]  # for what is kept record by record
        config = path / CONFIG
        self.resumed = config.exists()
        if self.resumed:
            old = self._config = read(config)
            if not resume:
                raise DataError(f"{path}: already holds a run; add --resume to continue it or choose another --run-dir")
            if old.get("key") != self.key:
                changed = ", ".join(_differences(old.get("identity", {}), identity)) or "the verb"
                raise DataError(
                    f"{path}: was started with another configuration ({changed}); resume it with that one "
                    "or choose another --run-dir"
                )
            with guarded(path):
                for part in path.glob(".*.part"):  # nobody else writes here: a killed process has left it
                    part.unlink()
        else:
            with guarded(path):
                path.mkdir(parents=True, exist_ok=True)
            self._config = {
                "verb": verb,
                "key": self.key,
                "identity": identity,
                "recipe": recipe,
                "versions": versions(),
                "parts": _providers(recipe),
                "summary": None,
            }
            write_json(config, self._config)

    @staticmethod
    def records(path: Path) -> list[Any]:
        """Records of a finished run's JSONL file."""
        with guarded(path):
            return [json.loads(line) for line in regular(path).read_text("utf-8").splitlines()]

    def lines(self, name: str) -> list[Any]:
        """Whole records of a JSONL file; a torn last line is cut off the file."""
        path = self.path / name
        if not path.exists():
            return []
        with guarded(path):
            blob = regular(path).read_bytes()
        whole, records = 0, []
        for line in blob.splitlines(keepends=True):
            try:
                if not line.endswith(b"\n"):
                    break
                records.append(json.loads(line))
            except ValueError:
                break
            whole += len(line)
        if whole != len(blob):
            with guarded(path), path.open("r+b") as file:
                file.truncate(whole)
        return records

    def append(self, name: str, records: Sequence[Mapping[str, Any]]) -> None:
        """Append records to a JSONL file. Raises `DataError` when the disk refuses."""
        if not self.writes:
            return
        text = "".join(map(_line, records))
        with guarded(self.path / name), (self.path / name).open("a", encoding="utf-8") as file:
            file.write(text)
        stop_points.written(self.path / name)

    def truncate(self, name: str, count: int) -> None:
        """Keep the first `count` records of a JSONL file."""
        if self.writes and (self.path / name).exists():
            write_text(self.path / name, "".join(map(_line, self.lines(name)[:count])))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary, its digest into the configuration first; a run is complete when it is there.

        What has the key `seconds` is null in it and stands in a file of its own.
        """
        if self.writes:
            seconds: dict[str, Any] = {}
            timeless = _without_seconds(summary, "", seconds)
            write_json(self.path / CONFIG, {**self._config, "summary": fingerprint(timeless)})
            write_json(self.path / SECONDS, seconds)
            write_json(self.path / SUMMARY, timeless)

    def discard(self, *files: str) -> None:
        """Remove what a run that gave nothing has written: its configuration, `files`, and the folder if it is empty
        then.
        """
        for name in (CONFIG, *files):
            (self.path / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.path.rmdir()

    @property
    def summary(self) -> Any:
        """The summary of a complete run. Raises `DataError` for one that this run did not write."""
        return summary_of(self.path, self._config)


def summary_of(run: Path, config: Mapping[str, Any]) -> Any:
    """The summary of the run in a directory, None of one that is not complete. Raises `DataError` for one that the run
    with this configuration did not write.
    """
    path = run / SUMMARY
    if not path.exists():
        return None
    summary = read(path)
    # those of earlier versions have no digest
    if "summary" in config and config["summary"] != fingerprint(summary):
        raise DataError(f"{path}: is not what this run wrote; remove it, and --resume makes it again")
    return _with_seconds(summary, "", read(run / SECONDS)) if (run / SECONDS).exists() else summary


def _without_seconds(data: Any, place: str, seconds: dict[str, Any]) -> Any:
    """Plain data whose `seconds` are null; their values by place go into `seconds`."""
    if isinstance(data, list):
        return [_without_seconds(value, f"{place}/{i}", seconds) for i, value in enumerate(data)]
    if not isinstance(data, Mapping):
        return data
    if "seconds" in data:
        seconds[f"{place}/seconds"] = data["seconds"]
    return {
        key: None if key == "seconds" else _without_seconds(value, f"{place}/{key}", seconds)
        for key, value in data.items()
    }


def _with_seconds(data: Any, place: str, seconds: dict[str, Any]) -> Any:
    """The data that `_without_seconds` had."""
    if isinstance(data, list):
        return [_with_seconds(value, f"{place}/{i}", seconds) for i, value in enumerate(data)]
    if not isinstance(data, dict):
        return data
    return {
        key: seconds.get(f"{place}/seconds", value)
        if key == "seconds"
        else _with_seconds(value, f"{place}/{key}", seconds)
        for key, value in data.items()
    }


_kept: dict[Path, int] = {}  # how many runs of this process use a folder
_reserved: dict[Path, Callable[[], None]] = {}  # folders chosen for runs that are still to come
_release: dict[Path, Callable[[], None]] = {}  # what gives each of them free again


def _keep(path: Path) -> Callable[[], None]:
    """Keep a run's folder from other processes until no run of this one uses it. Raises `DataError` as `hold`."""
    place = path.resolve()
    _kept[place] = _kept.get(place, 0) + 1  # first, since a run that is collected meanwhile gives the folder free

    def done() -> None:
        _kept[place] -= 1
        if not _kept[place] and place in _release:
            _release.pop(place)()

    if place not in _release:
        try:
            _release[place] = hold(place)
        except DataError:
            done()
            raise

    return done


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n"


_resumable: list[Path] = []  # the folder of a run of this process that --resume continues


def resumable() -> Path | None:
    """The folder of the run that this process has begun and `--resume` continues; None where there is none."""
    return next((path for path in _resumable if (path / CONFIG).exists()), None)


def choose(given: Path | None, verb: str, name: str, resume: bool) -> Path:
    """The folder of a run that can be resumed, as `_chosen` chooses it."""
    _resumable[:] = [_chosen(given, verb, name, resume)]
    return _resumable[0]


def is_run_of(folder: str, name: str) -> bool:
    """Whether a run's folder has this name, or this name with a number."""
    return folder == name or (folder.startswith(f"{name}-") and folder[len(name) + 1 :].isdigit())


def newest_finished(stage: str, name: str) -> Path | None:
    """The folder of the newest finished run of this name below `runs/<stage>`, None without one."""
    done = [path.parent for path in (RUNS / stage).glob(f"*/{SUMMARY}") if is_run_of(path.parent.name, name)]
    return max(done, key=lambda path: (path / SUMMARY).stat().st_mtime) if done else None


def _chosen(given: Path | None, verb: str, name: str, resume: bool) -> Path:
    """`--run-dir`, or `runs/<verb>/<name>`, `…-2`, `…-3`: the newest to resume, else the next free one, which is kept
    from other processes that choose at the same time.
    """
    if given is not None:
        return given
    base = RUNS / verb
    taken = [
        p for p in (base / name, *sorted(base.glob(f"{glob.escape(name)}-*"), key=_ordinal)) if (p / CONFIG).exists()
    ]
    taken = [p for p in taken if is_run_of(p.name, name)]
    if resume:
        if not taken:
            raise DataError(f"{base / name}: there is no run to resume; leave out --resume or give --run-dir")
        return taken[-1]
    number = max((_ordinal(p) if p.name != name else 1 for p in taken), default=0) + 1
    while not _reserve(path := base / (name if number == 1 else f"{name}-{number}")):
        number += 1
    return path


def _reserve(path: Path) -> bool:
    """Keep a folder for a run of this process; False when another process has it."""
    place = path.resolve()
    if place not in _reserved:
        try:
            _reserved[place] = _keep(path)
        except DataError:
            return False
    return True


def stage(processes: "Processes", path: Path, work: Callable[[Path, bool], T | None]) -> T:
    """The summary of one step of a longer job, which continues an earlier run of the same configuration."""
    if not processes.first((path / SUMMARY).exists):
        say(f"== {path}")
    result = work(path, processes.first((path / CONFIG).exists))
    assert result is not None  # it has a run directory
    return result


def _ordinal(path: Path) -> int:
    tail = path.name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else 0


def read(path: Path) -> dict[str, Any]:
    """A JSON file of a run. Raises `DataError` when it is damaged."""
    try:
        data = json.loads(regular(path).read_text("utf-8"))
        if not isinstance(data, dict):
            raise ValueError("not a mapping")
        return data
    except OSError as error:
        raise DataError(explain(error, path)) from error
    except ValueError as error:
        raise DataError(f"{path}: is damaged ({error}); choose another --run-dir") from error


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        gone = object()  # a key that an older version did not have differs from any value
        return [d for k in keys for d in _differences(old.get(k, gone), new.get(k, gone), f"{path}.{k}".lstrip("."))]
    return [] if old == new else [path]


def fingerprint(data: Any) -> str:
    """SHA-256 of plain data in canonical JSON."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
