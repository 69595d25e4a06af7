"""A user's own classifier: a structured fully connected layer learned on a folder of support images."""

from pathlib import Path
from time import perf_counter
from typing import Any, Self

import torch
from torch import Tensor

from fewshot_cli import transport
from fewshot_cli.config.schema import Recipe
from fewshot_cli.contracts import Head, Learns
from fewshot_cli.data.user_images import TAKING, Folder, Taking, omissions
from fewshot_cli.errors import DataError, RecipeError
from fewshot_cli.evaluation.model import Model
from fewshot_cli.evaluation.results import PredictionRecord
from fewshot_cli.evaluation.stats import INTERVAL_IMAGES, share_ci95
from fewshot_cli.evaluation.tally import PREDICTIONS
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.runtime.runs import Run, versions
from fewshot_cli.weights import checkpoint

LAYER, FILE = "sfc.layer", "classifier.safetensors"
QUERIES = 256  # images scored in one solver call


class Learner(Model):
    """A recipe's model with a head that has a layer to learn."""

    @classmethod
    def of(cls, recipe: Recipe, given: Path | None, root: Path, device: torch.device) -> Self:
        """The model. Raises `RecipeError` for a head without a layer."""
        model = cls.open(recipe, root, Processes(device), given)
        if not isinstance(model.head, Learns):
            raise RecipeError(
                f"recipe {recipe.name} has head {recipe.head.name}, which has no layer to learn; use a recipe "
                "with head sfc, such as glyphs_5w5s, or --set head=sfc"
            )
        return model

    @property
    def learner(self) -> Learns:
        """Its head, which `of` has checked to have a layer to learn."""
        assert isinstance(self.head, Learns)
        return self.head

    def classifier(self, path: Path) -> tuple[list[str], Tensor]:
        """The classes and the layer [way,…] of a classifier that was learned on these features. Raises `DataError`."""
        made = _classifier_in(path)
        self.check_made_for(made)
        return made.sidecar["classes"], made.tensors[LAYER].to(self.matching_device)

    def check_made_for(self, made: checkpoint.Checkpoint) -> None:
        """Raise `DataError` for a classifier that was learned on other features, or by another head."""
        classifier, recipe = made.path, self.recipe
        for what, ours in self.made_of.items():
            if made.sidecar.get(what) != ours:
                raise DataError(
                    f"{classifier}: was learned with other {what} than recipe {recipe.name} names; give the same "
                    "--recipe and --weights as to `fsl finetune-sfc`"
                )
        learned, ours = made.sidecar.get("head", {}), recipe.resolved()["head"]
        options = learned.get("options", {})
        other = [k for k, v in _scoring(self.head, ours["options"]).items() if options.get(k) != v]
        if learned.get("name") != ours["name"] or other:
            what = f"head.{other[0]} {options.get(other[0])}" if other else f"head {learned.get('name')}"
            raise DataError(
                f"{classifier}: was learned with {what}, recipe {recipe.name} has "
                f"{ours['options'][other[0]] if other else ours['name']}; give the same --set options as to "
                "`fsl finetune-sfc`"
            )

    def run(self, path: Path, verb: str, inputs: dict[str, str], resume: bool) -> Run:
        """The run directory of a classifier that is learned, or scored, on `inputs`."""
        identity = {
            **self.made_of,
            "head": self.recipe.resolved()["head"],
            "solver": self.recipe.identity()["solver"],
            "device": self.device.type,
            **inputs,
        }
        return Run(path, verb, self.recipe.resolved(), identity, resume)


def finetune(
    recipe: Recipe,
    support: Path,
    run_dir: Path | None,
    resume: bool,
    given: Path | None,
    root: Path,
    device: torch.device,
    taking: Taking = TAKING,
) -> dict[str, Any] | None:
    """Learn the layer on `support/<class>/<image>` and write it into the run directory; returns the summary.

    Without a run directory everything is checked and nothing learned. Classes may have different numbers of images.
    Raises `DataError` for fewer than two classes or undecodable images, `RecipeError` for a head without a layer.
    """
    model = Learner.of(recipe, given, root, device)
    folder = Folder(support, "--support", recipe.image, taking)
    if len(folder.classes) < 2:
        raise DataError(
            f"{support}: holds one class ({folder.classes[0]}); a classifier needs at least two class folders"
        )
    if run_dir is None:
        return None
    run = model.run(run_dir, "finetune-sfc", {"support": folder.sha256}, resume)
    if run.summary is not None:
        return run.summary
    maps = model.features(folder)
    with transport.ledger() as ledger:
        layer = model.learner.learn(maps[None], folder.labels)[0]
        fitted = _guess(model.learner, layer, maps)
    summary = {
        "classes": folder.classes,
        "pictures": len(folder),
        "solver": recipe.solver.name,
        "support_accuracy": 100 * float((fitted == folder.labels).float().mean()),
        **omissions(folder),
        "not_converged": sum(ledger.failures(1)),
        "classifier": str(run_dir / FILE),
    }
    sidecar = {
        "stage": "finetune-sfc",
        "classes": folder.classes,
        "pictures": len(folder),
        **model.made_of,
        "head": recipe.resolved()["head"],
        "versions": versions(),
    }
    summary["sha256"] = checkpoint.save_tensors(run_dir / FILE, {LAYER: layer.cpu().contiguous()}, sidecar)
    run.finish(summary)
    return summary


def score(
    recipe: Recipe,
    classifier: Path,
    query: Path,
    run_dir: Path | None,
    resume: bool,
    given: Path | None,
    root: Path,
    device: torch.device,
    taking: Taking = TAKING,
) -> dict[str, Any] | None:
    """Accuracy of a fine-tuned classifier on `query/<class>/<image>`, in the fields of an evaluation's summary.

    Without a run directory everything is checked and nothing scored. Raises `DataError` when the classifier was learned
    on other weights, or a folder names a class it does not know.
    """
    begin = perf_counter()
    made = _classifier_in(classifier)
    model = Learner.of(recipe, given, root, device)
    folder = Folder(query, "--query", recipe.image, taking)
    model.check_made_for(made)
    names = made.sidecar["classes"]
    unknown = [c for c in folder.classes if c not in names]
    if unknown:
        raise DataError(f"{query}: class {unknown[0]} is none of the classifier's ({', '.join(names[:5])}…)")
    if run_dir is None:
        return None
    run = model.run(run_dir, "eval", {"classifier": made.sha256, "query": folder.sha256}, resume)
    maps = model.features(folder)
    with transport.ledger() as ledger:
        guess = _guess(model.learner, made.tensors[LAYER].to(maps.device), maps)
    truth = torch.tensor([names.index(folder.classes[i]) for i in folder.labels.tolist()])
    answers: list[PredictionRecord] = [
        {"picture": i, "class": names[label], "top": [names[given]]}
        for i, (label, given) in enumerate(zip(truth.tolist(), guess.tolist(), strict=True))
    ]
    run.truncate(PREDICTIONS, 0)
    run.append(PREDICTIONS, answers)
    correct = int((guess == truth).sum())
    mean, ci95 = share_ci95(correct, len(truth))
    summary = {
        "format": 1,
        "recipe": recipe.name,
        "dataset": str(query),
        "head": recipe.head.name,
        "solver": recipe.solver.name,
        "way": len(names),
        "shot": round(made.sidecar["pictures"] / len(names)),
        "episodes": 1,
        "pictures": len(truth),
        "accuracy": mean,
        "ci95": ci95,
        "interval": INTERVAL_IMAGES,
        **omissions(folder),
        "not_converged": sum(ledger.failures(1)),
        "seconds": {"embedding": model.embedding_seconds, "matching": ledger.seconds, "total": perf_counter() - begin},
        "seed": recipe.seed,
        "weights": model.weights.label,
        "hashes": {"weights": model.made_of["weights"], "data": folder.sha256, "classifier": made.sha256},
        "versions": versions(),
        "device": str(device),
        "run_dir": str(run_dir),
    }
    run.finish(summary)
    return summary


def _classifier_in(path: Path) -> checkpoint.Checkpoint:
    made = checkpoint.load(path)
    if LAYER not in made.tensors:
        raise DataError(f"{path}: is not a classifier of `fsl finetune-sfc`; make one from a support folder first")
    return made


def _scoring(head: Head, options: dict[str, Any]) -> dict[str, Any]:
    """Those of a head's options that its scores depend on once the layer is learned."""
    fields = type(head.options).model_fields
    return {k: v for k, v in options.items() if not dict(fields[k].json_schema_extra or {}).get("learning")}


@torch.no_grad()
def _guess(head: Learns, layer: Tensor, maps: Tensor) -> Tensor:
    """Class of each image [N] under a layer [way,n,d]."""
    return torch.cat([head.score(layer[None], part[None])[0].argmax(1).cpu() for part in maps.split(QUERIES)])
