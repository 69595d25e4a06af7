"""Features as files, read and written: .npz, .safetensors, .parquet, or a folder of .npy."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fewshot_cli.errors import DataError, FslError
from fewshot_cli.runtime.files import atomic, guarded, regular

ENDINGS = (".npz", ".safetensors", ".parquet")
SHAPES = "arrays [N,d] or [N,d,h,w]"


@dataclass(frozen=True)
class Arrays:
    """`features` [N,d,h,w] float32 with each one's class, and where the file says so its name and its split."""

    features: np.ndarray
    labels: list[str]
    names: list[str]
    splits: list[str] | None


def read(path: Path, keys: dict[str, str]) -> Arrays:
    """The features of a file or of a folder `[<split>/]<class>/<name>.npy`; `keys` are the names of its arrays.

    Classes are strings, or numbers with names in an array or metadata `classes`. Raises `DataError` for what is
    missing, of another shape or length, or not finite.
    """
    if path.is_dir():
        return _checked(*_folder(path), path)
    if path.suffix.lower() not in ENDINGS:
        raise DataError(f"{path}: is neither {', '.join(ENDINGS)} nor a folder of .npy files; give one of these")
    with guarded(path):
        regular(path)
        if not path.is_file():
            raise DataError(f"{path}: no such file; give a {', '.join(ENDINGS)} or a folder of .npy files")
    readers = {".npz": _npz, ".safetensors": _safetensors, ".parquet": _parquet}
    try:
        found = readers[path.suffix.lower()](path)
    except (DataError, FslError):
        raise
    except Exception as error:  # each reader raises what it likes for a damaged file
        said = str(error).partition("\n")[0]
        raise DataError(f"{path}: cannot be read as {path.suffix[1:]} ({said}); write it again") from error
    for what in ("features", "labels"):
        if keys[what] not in found:
            known = ", ".join(sorted(found)) or "nothing"
            raise DataError(f"{path}: has no {keys[what]} (it has {known}); name it with --set {what}=NAME")
    features, labels = np.asarray(found[keys["features"]]), np.asarray(found[keys["labels"]])
    if labels.ndim != 1:
        raise DataError(f"{path}: {keys['labels']} is {list(labels.shape)}, labels are one for each feature: [N]")
    classes = found.get("classes")
    if classes is not None and np.issubdtype(labels.dtype, np.integer):
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
            raise DataError(f"{path}: {keys['labels']} holds {labels.max()}, classes has {len(classes)} names")
        labels = np.asarray(classes)[labels]
    names, splits = (found.get(keys[key]) for key in ("names", "splits"))
    return _checked(features, _texts(labels), _texts(names), _texts(splits), path)


def _texts(values: Any) -> list[str] | None:
    """Whatever holds words or numbers, as words; bytes as UTF-8."""
    if values is None:
        return None
    return [v.decode("utf-8") if isinstance(v, bytes) else str(v) for v in np.asarray(values).tolist()]


def _checked(
    features: np.ndarray, labels: list[str] | None, names: list[str] | None, splits: list[str] | None, path: Path
) -> Arrays:
    if features.ndim == 2:
        features = features[:, :, None, None]
    if features.ndim != 4 or 0 in features.shape or not np.issubdtype(features.dtype, np.floating):
        raise DataError(f"{path}: features are {features.dtype} {list(features.shape)}; they must be floats, {SHAPES}")
    features = np.ascontiguousarray(features, np.float32)
    if not np.isfinite(features).all():
        bad = int(np.argmin(np.isfinite(features).reshape(len(features), -1).all(1)))
        raise DataError(f"{path}: feature {bad} holds NaN or infinity, or exceeds float32; such features are not used")
    labels = labels or []
    names = names if names is not None else [str(i) for i in range(len(features))]
    for what, column in (("labels", labels), ("names", names), ("splits", splits)):
        if column is not None and len(column) != len(features):
            raise DataError(f"{path}: has {len(features)} features and {len(column)} {what}; give one for each")
    if not all(labels):
        raise DataError(f"{path}: the label of feature {labels.index('')} is empty; give each a class")
    return Arrays(features, labels, names, splits)


def _npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        found: dict[str, Any] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a mapping
        return {**{key: json.loads(value) for key, value in (file.metadata() or {}).items() if key in _LISTS}, **found}


_LISTS = ("classes", "names", "splits")


def _parquet(path: Path) -> dict[str, Any]:
    table = _pyarrow(path).parquet.read_table(path)
    shape = json.loads((table.schema.metadata or {}).get(b"shape", b"null"))
    found: dict[str, Any] = {}
    for name in table.column_names:
        column = table.column(name).to_pylist()
        found[name] = np.array(column) if column and isinstance(column[0], list) else column
    if shape is not None and "features" in found:
        found["features"] = found["features"].reshape(-1, *shape)
    return found


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            f"{path}: reading and writing Parquet needs pyarrow; pip install 'fewshot-cli[parquet]', or take .npz"
        ) from error
    return pyarrow


def _folder(path: Path) -> tuple[np.ndarray, list[str], list[str], list[str] | None]:
    files = sorted(file for file in path.rglob("*.npy") if file.is_file())
    if not files:
        raise DataError(f"{path}: holds no .npy file; --from takes <class>/<name>.npy, or {', '.join(ENDINGS)}")
    arrays, places = [], [file.relative_to(path).parts for file in files]
    depth = {len(parts) for parts in places}
    if len(depth) != 1 or not depth <= {2, 3}:
        raise DataError(f"{path}: .npy files must all lie in <class>/ or all in <split>/<class>/")
    for file in files:
        try:
            with guarded(file):
                arrays.append(np.load(regular(file), allow_pickle=False))
        except (ValueError, EOFError) as error:
            raise DataError(f"{file}: is not an array of numbers ({error}); write it with numpy.save") from error
        if arrays[-1].shape != arrays[0].shape:
            raise DataError(f"{file}: is {list(arrays[-1].shape)}, {files[0].name} is {list(arrays[0].shape)}")
    splits = [parts[0] for parts in places] if depth == {3} else None
    return np.stack(arrays), [parts[-2] for parts in places], [parts[-1] for parts in places], splits


def write(path: Path, arrays: Arrays, facts: dict[str, str]) -> None:
    """Write features so that `read` and others read them; `facts` say where they come from. Raises `DataError`."""
    columns: dict[str, list[str]] = {"labels": arrays.labels, "names": arrays.names}
    if arrays.splits is not None:
        columns["splits"] = arrays.splits
    with atomic(path) as part:
        if path.suffix == ".npz":
            with part.open("wb") as file:
                np.savez(
                    file,
                    features=arrays.features,
                    facts=np.array(json.dumps(facts)),
                    **{key: np.array(value) for key, value in columns.items()},  # type: ignore[arg-type]
                )
        elif path.suffix == ".safetensors":
            from safetensors.numpy import save_file

            classes = list(dict.fromkeys(arrays.labels))
            numbers = np.array([classes.index(label) for label in arrays.labels])
            del columns["labels"]
            lists = {key: json.dumps(value) for key, value in {**columns, "classes": classes}.items()}
            save_file({"features": arrays.features, "labels": numbers}, part, metadata={**lists, **facts})
        else:
            pyarrow = _pyarrow(path)
            flat = arrays.features.reshape(len(arrays.features), -1)
            table = pyarrow.table({"features": list(flat), **columns})
            shape = json.dumps(list(arrays.features.shape[1:]))
            table = table.replace_schema_metadata({"shape": shape, **facts})
            pyarrow.parquet.write_table(table, part)


def check_ending(path: Path) -> None:
    """Raise `FslError` for a file of another kind."""
    if path.suffix not in ENDINGS:
        raise FslError(f"{path}: must end in {', '.join(ENDINGS)}")
