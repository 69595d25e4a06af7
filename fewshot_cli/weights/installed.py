"""Weights that installed packages bring: the entry points of the group `fewshot_cli.weights`.

An entry point `NAME = "package.folder"` says that the package's folder holds `NAME.safetensors` with its sidecar
`NAME.safetensors.json`. This package's own are declared in the same way.
"""

from importlib import resources
from pathlib import Path

from fewshot_cli import registry
from fewshot_cli.errors import DataError, RecipeError

BESIDE = ("cifar_fs_resnet12", "cub_resnet12", "fc100_resnet12")  # in our own second package, too large for this one


def names() -> list[str]:
    """The names of all installed weights."""
    return list(registry.entries("weights"))


def file(name: str) -> Path:
    """The file of installed weights. Raises `DataError` when its package does not hold what it declares."""
    entry = registry.entries("weights")[name]
    try:
        entry.refuse_rival()
        path = Path(str(resources.files(entry.point.value).joinpath(f"{name}.safetensors")))
    except RecipeError as error:
        raise DataError(f"weights {error}") from error
    except (Exception, SystemExit) as error:  # finding a folder imports its package, which may do anything
        raise DataError(
            f"weights {name}: {entry.point.value} of package {entry.package} cannot be found ({error}); "
            f"reinstall {entry.package}"
        ) from error
    if not path.is_file():
        raise DataError(
            f"weights {name}: package {entry.package} declares them but {path} is not there; reinstall {entry.package}"
        )
    return path


def label(name: str) -> str:
    """How results name installed weights: `shipped:NAME`, with the package in place of the word for another's."""
    entry = registry.entries("weights")[name]
    return f"{'shipped' if entry.built_in else entry.package}:{name}"
