"""A model to deploy: the backbone, with examples and some heads the whole classifier, as ONNX or a PyTorch archive."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewshot_cli.config.schema import ImageSpec, Recipe
from fewshot_cli.contracts import Deploys
from fewshot_cli.data.user_images import TAKING, Taking
from fewshot_cli.errors import DataError, FslError, RecipeError
from fewshot_cli.evaluation.model import Model
from fewshot_cli.predict.labeller import from_examples, support_set
from fewshot_cli.runtime.console import say
from fewshot_cli.runtime.files import atomic
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.runtime.runs import versions

ENDINGS = (".onnx", ".pt2")
OPSET = 18
NEAR = 1e-4  # how far the exported model may be from the one here, relative to the largest output
CHECKED = 3  # images that both get


class Deployable(nn.Module):
    """Images [N,3,S,S] of 0 to 1 → maps [N,d,h,w], or with a classifier its logits [N,way]."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, classifier: nn.Module | None, spec: ImageSpec) -> None:
        super().__init__()
        self.backbone, self.classifier = backbone, classifier
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """As the class says; standardised here, by the weights' own constants."""
        maps = self.backbone((images - self.mean) / self.std)
        return maps if self.classifier is None else self.classifier(maps)


@torch.no_grad()
def export(
    recipe: Recipe,
    support: Path | None,
    out: Path,
    given: Path | None,
    root: Path,
    taking: Taking = TAKING,
) -> dict[str, Any]:
    """Write a recipe's model to `out`, check that the file gives what the model gives, and return what it is.

    With `support` and a head that `Deploys` it is the whole classifier, up to its logits; other heads match by a
    solver, so that the backbone is what can be exported. Raises `DataError` where the file is off by more than 1e-4,
    `FslError` for a missing package.
    """
    model = Model.open(recipe, root, Processes(torch.device("cpu")), given)
    if model.backbone.takes_features:
        raise RecipeError(
            f"recipe {recipe.name} has backbone {recipe.backbone.name}, of which there is nothing to export"
        )
    classifier, classes, exact = None, None, None
    if support is not None and isinstance(model.head, Deploys):
        made = from_examples(model, support_set(support, recipe, root, taking), support)
        assert made.examples is not None
        classes, examples = made.classes, made.examples
        classifier = model.head.deployed(examples.maps, examples.labels).eval()
        exact = float((classifier(examples.maps) - made.score(examples.maps)).abs().max())
    elif support is not None:
        say(
            f"note: head {recipe.head.name} matches by a solver, which is no part of the file: it holds the backbone. "
            "examples/matching.py matches its maps; heads sfc and prototype are exported whole"
        )
    whole = Deployable(model.backbone.eval(), classifier, recipe.image).eval()
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(CHECKED, 3, recipe.image.size, recipe.image.size, generator=rng)
    facts = _facts(model, classes)
    kind = _onnx if out.suffix == ".onnx" else _archive
    theirs = kind(whole, images, out, facts)
    ours = whole(images).numpy()
    off = float(np.abs(theirs - ours).max() / max(np.abs(ours).max(), 1e-12))
    if not off <= NEAR:
        out.unlink()
        raise DataError(f"{out}: gives outputs that are off by {off:.1e}, more than {NEAR:g}, so it was not kept")
    return {
        "format": 1,
        "path": str(out),
        "bytes": out.stat().st_size,
        "input": ["images", "batch", 3, recipe.image.size, recipe.image.size],
        "output": ["logits" if classes else "maps", "batch", *ours.shape[1:]],
        "relative_error": off,
        "logits_from_exact": exact,
        **{key: json.loads(value) for key, value in facts.items()},
    }


def _facts(model: Model, classes: list[str] | None) -> dict[str, str]:
    """What a file holds beside the network, each as JSON."""
    spec = model.recipe.image
    facts = {
        "recipe": model.recipe.name,
        "classes": classes,
        "image": {
            "size": spec.size,
            "resize": spec.resize or spec.size,
            "interpolation": spec.interpolation,
            "mean": spec.mean,
            "std": spec.std,
            "input": "RGB from 0 to 1, squashed to resize×resize, centre-cropped to size×size; standardised inside",
        },
        "weights": {"sha256": model.weights.checkpoint.sha256, "source": model.weights.label},
        "saw": model.weights.checkpoint.saw,
        "versions": versions(),
    }
    return {key: json.dumps(value) for key, value in facts.items()}


def _onnx(whole: nn.Module, images: Tensor, out: Path, facts: dict[str, str]) -> np.ndarray:
    """Write ONNX, and return what onnxruntime makes of the images."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # PyTorch's exporter wants it
    except ImportError as error:
        raise FslError(
            f"{out}: ONNX needs the packages onnx, onnxscript and onnxruntime ({error}); pip install "
            "'fewshot-cli[export]' (in a checkout: pip install '.[export]'), or end the name in .pt2"
        ) from error
    batch = torch.export.Dim("batch", min=1, max=4096)
    name = "logits" if getattr(whole, "classifier", None) is not None else "maps"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            whole,
            (images,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=[name],
            dynamic_shapes={"images": {0: batch}},
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    for key, value in facts.items():
        proto.metadata_props.add(key=f"fsl.{key}", value=value)
    with atomic(out) as part:
        part.write_bytes(proto.SerializeToString())
    onnx.checker.check_model(str(out))
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    made: np.ndarray = session.run(None, {"images": images.numpy()})[0]
    return made


def _archive(whole: nn.Module, images: Tensor, out: Path, facts: dict[str, str]) -> np.ndarray:
    """Write an archive of torch.export, and return what it makes of the images once it is loaded."""
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(whole, (images,), dynamic_shapes={"images": {0: batch}})
    with atomic(out) as part, part.open("wb") as file:
        torch.export.save(program, file, extra_files={f"fsl.{key}": value for key, value in facts.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = torch.export.load(out)
    made: np.ndarray = loaded.module()(images).numpy()
    return made
