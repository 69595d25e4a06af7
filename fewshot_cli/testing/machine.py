"""What works on this machine, what is missing and how to get it: the facts of `fsl doctor`."""

import os
import re
import shutil
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

import torch

from fewshot_cli import registry
from fewshot_cli.errors import FslError
from fewshot_cli.kernels import compile as kernels
from fewshot_cli.runtime.device import free_memory
from fewshot_cli.runtime.files import explain
from fewshot_cli.runtime.runs import versions
from fewshot_cli.weights import installed

LITTLE_DISK, LITTLE_MEMORY = 2e9, 2e9  # bytes below which a user is warned
_GIVES = {
    "cuda12": "solving on a GPU",
    "cuda13": "solving on a GPU",
    "export": "fsl export",
    "faiss": "large galleries",
    "heic": "photos in HEIC",
    "hub": "weights from the Hugging Face hub",
    "parquet": "data in Parquet files",
    "photos": "EfficientNet-Lite0, much better on photos",
    "tensorboard": "--log tensorboard",
    "timm": "the backbones of timm",
    "weights": "ResNet-12 for CUB, CIFAR-FS and FC100",
}
_NOT_FOR_USERS = ("all", "dev", "docs")


@dataclass(frozen=True)
class Finding:
    """One fact about the machine. `get` is how to get what is missing, empty where nothing is; `broken` says that
    without it nothing works.
    """

    what: str
    state: str
    get: str = ""
    broken: bool = False


def findings(root: Path) -> list[Finding]:
    """Everything that a report on the machine says; `root` is the folder of prepared data."""
    return [
        *(Finding(name, release) for name, release in versions().items()),
        *_solving(),
        Finding("CPU threads", str(torch.get_num_threads())),
        _memory(),
        *_gpu(),
        *_disk(root),
        _cache(),
        _data(root),
        *_weights(),
        *_extras(),
        *_solvers(),
    ]


def verdict(found: list[Finding]) -> str:
    """One sentence: whether `fsl` works here, and what it could have besides."""
    broken = [one for one in found if one.broken]
    if broken:
        return "fsl does not work here: " + "; ".join(f"{one.what}: {one.state}" for one in broken)
    where = "on the GPU and the CPU" if torch.cuda.is_available() else "on the CPU"
    more = [one.what for one in found if one.get]
    if not more:
        return f"fsl works here, {where}"
    return f"fsl works here, {where}; what is missing can be installed as the last column says: {', '.join(more)}"


def _solving() -> Iterator[Finding]:
    """A transport problem whose optimum is known, through the solver that recipes name: it compiles or finds the
    kernels.
    """
    cost = torch.tensor([[[0.0, 2.0, 3.0], [1.0, 0.0, 4.0], [5.0, 6.0, 0.0]]])
    mass = torch.full((1, 3), 1.0)
    try:
        plan = registry.solver("network_simplex")().solve(cost, mass, mass)
        right = bool(torch.allclose(plan.flow[0], torch.eye(3)))
        state = "works" if right else "gives a wrong plan for a problem of 3×3; reinstall fewshot-cli and numba"
    except Exception as error:  # whatever it is: that is what the report is for
        right, state = False, str(error).partition("\n")[0] or type(error).__name__
    yield Finding("exact matching", state, broken=not right)


def _memory() -> Finding:
    free = free_memory(torch.device("cpu"))
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    few = "close other programs, or give --batch 1" if free < LITTLE_MEMORY else ""
    return Finding("memory", f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free", few)


def _has_driver() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _gpu() -> Iterator[Finding]:
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    get = "a PyTorch built for CUDA: https://pytorch.org/get-started" if _has_driver() and not names else ""
    yield Finding("GPU", ", ".join(names) or "none that PyTorch sees", get)
    if not names:
        return
    try:
        import cupy

        sees = cupy.cuda.is_available()
        yield Finding(
            "CuPy", cupy.__version__ if sees else "sees no GPU", "" if sees else "a driver that fits CuPy's CUDA"
        )
    except (ImportError, RuntimeError, OSError) as error:
        yield Finding("CuPy", f"does not import ({error})", f"pip install 'fewshot-cli[{_cuda_extra()}]'")


def _disk(root: Path) -> Iterator[Finding]:
    """Room where data, runs and features are written, and whether it can be written there."""
    for name, folder in ((f"disk of the data in {root}", root), ("disk of this folder", Path.cwd())):
        there = next(path for path in (folder, *folder.resolve().parents) if path.is_dir())
        free = shutil.disk_usage(there).free
        if not os.access(there, os.W_OK):
            yield Finding(name, f"{there} cannot be written to", "another folder: --data-root, --run-dir")
        else:
            little = "free some space, or give another folder: --data-root, --run-dir" if free < LITTLE_DISK else ""
            yield Finding(name, f"{free / 1e9:.1f} GB free", little)


def _cache() -> Finding:
    place = kernels.folder()
    if (reason := kernels.unwritable_reason(place)) is not None:
        get = "a folder that can be written to: NUMBA_CACHE_DIR"
        return Finding("compiled kernels", f"compiled anew in each process: {place}: {reason}", get)
    return Finding("compiled kernels", f"kept in {place}")


def _data(root: Path) -> Finding:
    try:
        stores = sorted(p.name for p in root.iterdir() if (p / "index.json").is_file()) if root.is_dir() else []
    except OSError as error:
        return Finding(f"data in {root}", explain(error, root), "another folder: --data-root")
    return Finding(f"data in {root}", ", ".join(stores) or "none prepared; fsl prepare NAME")


def _weights() -> Iterator[Finding]:
    missing = [name for name in installed.BESIDE if name not in installed.names()]
    yield Finding("weights", ", ".join(installed.names()) or "none")
    if missing:
        yield Finding("weights that are not here", ", ".join(missing), "pip install 'fewshot-cli[weights]'")


def _extras() -> Iterator[Finding]:
    for extra, packages in sorted(_declared().items()):
        absent = [name for name in packages if not _is_installed(name)]
        if extra in _CUDA and extra != _cuda_extra():
            continue
        if extra in _CUDA and absent and not _has_driver():
            yield Finding(f"extra {extra}", "of no use without a GPU")
            continue
        gives = f" ({_GIVES[extra]})" if extra in _GIVES else ""
        state = f"missing: {', '.join(absent)}" if absent else "installed"
        yield Finding(f"extra {extra}{gives}", state, f"pip install 'fewshot-cli[{extra}]'" if absent else "")


_CUDA = ("cuda12", "cuda13")  # one of them is enough, and both together overwrite each other's files


def _cuda_extra() -> str:
    """The extra whose CuPy is made for the CUDA that PyTorch brings."""
    mine = f"cuda{(torch.version.cuda or '').partition('.')[0]}"
    return mine if mine in _CUDA else _CUDA[0]


def _declared() -> dict[str, list[str]]:
    """The packages of each optional extra, from the checkout, else from what was installed."""
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if project.is_file():
        table = tomllib.loads(project.read_text("utf-8"))["project"].get("optional-dependencies", {})
        pairs: Iterable[tuple[str, str]] = ((extra, text) for extra, texts in table.items() for text in texts)
    else:
        try:
            marked = (re.search(r"extra == ['\"]([^'\"]+)", text) for text in requires("fewshot-cli") or ())
            pairs = ((found[1], found.string) for found in marked if found)
        except PackageNotFoundError:
            pairs = ()
    out: dict[str, list[str]] = {}
    for extra, text in pairs:
        name = re.match(r"[A-Za-z0-9._-]+", text)
        if name and extra not in _NOT_FOR_USERS and name[0] != "fewshot-cli":
            out.setdefault(extra, []).append(name[0])
    return out


def _is_installed(package: str) -> bool:
    """Whether a package is there; a folder on the path that was not installed counts by its module's name."""
    try:
        version(package)
    except PackageNotFoundError:
        return find_spec(package.replace("-", "_")) is not None
    return True


def _solvers() -> Iterator[Finding]:
    for name, entry in registry.entries("solvers").items():
        try:
            reason = entry.load().unavailable_reason()
        except FslError as error:
            reason = str(error)
        what, _, get = (reason or "").rpartition("; ")
        yield Finding(f"solver {name}", "works" if reason is None else f"does not: {what or reason}", get)
