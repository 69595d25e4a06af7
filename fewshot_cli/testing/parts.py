"""The contracts of backbones, heads, classifiers, extractors and datasets: `fsl doctor --check KIND:NAME` and the tests
run these checks.

A check takes the part's name and returns None when the part passes, or a reason for which it does not apply; it raises
`Failed` with one sentence. Parts are made with their `trial` options, on the CPU in single precision.
"""

import inspect
import re
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from fewshot_cli import registry
from fewshot_cli.contracts import Extractor
from fewshot_cli.data.prepare import build_store
from fewshot_cli.errors import DataError
from fewshot_cli.testing import heads, networks, solvers
from fewshot_cli.testing.case import CPU, Failed, require
from fewshot_cli.testing.trial import Check, trial


def _extractor(name: str) -> Extractor[Any]:
    return registry.extractor(name)(trial("extractors", name).options)


def extractor_boxes(name: str) -> str | None:
    """Patches are boxes within the image, one mirroring for each, in evaluation and in training."""
    extractor, sizes = _extractor(name), torch.tensor([[32.0, 32.0], [20.0, 60.0]])
    if not extractor.patches:
        return "takes the map"
    for training in (False, True):
        boxes, flip = extractor.boxes(sizes, Generator().manual_seed(1), training)
        expected = (len(sizes), extractor.patches)
        require(boxes.shape == (*expected, 4), f"boxes are {list(boxes.shape)}, not {[*expected, 4]}")
        require(flip.shape == expected and flip.dtype == torch.bool, f"mirrorings are not bool {list(expected)}")
        low, span = boxes[..., :2], boxes[..., 2:]
        require((low >= -1e-6) & (span > 0) & (low + span <= 1 + 1e-6), "a box lies outside the image")
    return None


def extractor_draws(name: str) -> str | None:
    """Evaluation is the same for every seed unless the extractor is `random`; the same seed gives the same patches."""
    extractor, sizes = _extractor(name), torch.full((3, 2), 32.0)
    if not extractor.patches:
        return "takes the map"

    def drawn(seed: int, training: bool) -> Tensor:
        return extractor.boxes(sizes, Generator().manual_seed(seed), training)[0]

    for training in (False, True):
        require(torch.equal(drawn(1, training), drawn(1, training)), "the same seed gives other patches")
    same = torch.equal(drawn(1, False), drawn(2, False))
    require(same != extractor.random, "`random` does not say whether evaluation draws patches")
    return None


def extractor_tiles(name: str) -> str | None:
    """A figure's tiles are one box for each patch, and the side of the images a positive whole number."""
    extractor = _extractor(name)
    side = extractor.side(32, 36)
    require(isinstance(side, int) and side > 0, f"side is {side!r}, not a positive whole number")
    if not extractor.patches:
        return None
    boxes, _ = extractor.boxes(torch.full((1, 2), 32.0), Generator().manual_seed(1), False)
    tiles = extractor.tiles(boxes[0])
    require(tiles.shape == boxes[0].shape, f"tiles are {list(tiles.shape)}, not {list(boxes[0].shape)}")
    return None


def dataset_described(name: str) -> str | None:
    """It says what `--from` takes and its licence or terms, and downloads over https or by a recorded SHA-256."""
    cls = registry.dataset(name)
    require(bool(cls.source.strip()), "`source` does not say what --from takes")
    for file, (address, digest) in cls.urls.items():
        secured = address.startswith("https://") or digest is not None
        require(secured, f"{file}: {address} is not an https address and has no SHA-256")
        known = digest is None or re.fullmatch("[0-9a-f]{64}|md5:[0-9a-f]{32}", digest)
        require(bool(known), f"{file}: {digest} is no SHA-256")
    return None


def dataset_refuses(name: str) -> str | None:
    """A folder without its data is refused with a one-sentence error, and nothing is left behind."""
    cls = registry.dataset(name)
    if cls.embedded:
        return "is made from nothing"
    with tempfile.TemporaryDirectory() as folder:
        source, root = Path(folder, "source"), Path(folder, "root")
        source.mkdir()
        (source / "notes.txt").write_text("nothing of a dataset")
        try:
            build_store(name, cls(), [source], root)
        except DataError:
            left = [path.name for path in root.iterdir()] if root.is_dir() else []
            require(not left, f"{', '.join(left)} is left behind after a refusal")
            return None
    require(False, "a folder that holds nothing of it was not refused")
    return None


def dataset_repeats(name: str) -> str | None:
    """An embedded dataset is the same each time it is made, and matches its recorded hash."""
    cls = registry.dataset(name)
    if not cls.embedded:
        return "is made from an archive"
    hashes = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            hashes.append(build_store(name, cls(), [], Path(folder))["sha256"])
    require(hashes[0] == hashes[1], "it is another one the second time")
    require(cls.sha256 in (None, hashes[0]), f"its hash is {hashes[0]}, it says {cls.sha256}")
    return None


def _frozen(kind: str, name: str) -> str | None:
    """It documents itself; its options are frozen, refuse unknown keys and have defaults."""
    cls = registry.part(kind, name)
    require(bool((cls.__doc__ or "").strip()), "its class has no docstring")
    config = cls.Options.model_config
    require(config.get("frozen") is True and config.get("extra") == "forbid", "its options are not frozen and strict")
    cls.Options()
    return None


def _suite(kind: str, *checks: Check) -> dict[str, Check]:
    return {"options": partial(_frozen, kind), **{check.__name__.partition("_")[2]: check for check in checks}}


SUITES: dict[str, dict[str, Check]] = {
    "head": _suite(
        "heads",
        heads.head_shapes,
        heads.head_batches,
        heads.head_order,
        heads.head_state,
        heads.head_gradients,
        heads.head_saved,
        heads.head_honest,
        heads.head_elements,
    ),
    "backbone": _suite(
        "backbones",
        networks.backbone_shapes,
        networks.backbone_evaluation,
        networks.backbone_gradients,
        networks.backbone_saved,
    ),
    "classifier": _suite(
        "classifiers",
        networks.classifier_shapes,
        networks.classifier_gradients,
        networks.classifier_saved,
        networks.classifier_cost,
    ),
    "extractor": _suite("extractors", extractor_boxes, extractor_draws, extractor_tiles),
    "dataset": _suite("datasets", dataset_described, dataset_refuses, dataset_repeats),
}


def suite(kind: str, name: str, device: torch.device = CPU) -> dict[str, Callable[[], str | None]]:
    """The checks of one part by their names; `kind` is in the singular. A solver's problems lie on `device`.

    Raises `RecipeError` for an unknown part, and for a solver that takes no problems there.
    """
    if kind == "solver":
        case = solvers.case(name, device=device)
        return {label: partial(check, case) for label, check in solvers.CHECKS.items()}
    registry.part(f"{kind}s", name)
    return {label: partial(check, name) for label, check in SUITES[kind].items()}


def outcome(check: Callable[[], str | None]) -> tuple[str, str]:
    """`passed` with what was checked, `skipped` or `failed` with the reason."""
    try:
        reason = check()
    except Failed as error:
        return "failed", str(error)
    except Exception as error:  # a third party's part may raise anything
        return "failed", f"raises {type(error).__name__}: {error}"
    return ("skipped", reason) if reason is not None else ("passed", _documented(check))


def _documented(check: Any) -> str:
    while isinstance(check, partial):
        check = check.func
    return inspect.cleandoc(check.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
