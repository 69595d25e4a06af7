"""Meta-training: episodes, end to end through the head and its transport problems (DeepEMD, section 4.1)."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from fewshot_cli.config.load import head_in
from fewshot_cli.config.parts import build_backbone, build_extractor, build_head
from fewshot_cli.config.schema import MetatrainSpec, PhaseSpec, Recipe
from fewshot_cli.config.stages import deciding
from fewshot_cli.contracts import Head
from fewshot_cli.data.episodes import Sampler
from fewshot_cli.data.pixels import Pixels
from fewshot_cli.data.prepare import dataset_of
from fewshot_cli.errors import RecipeError
from fewshot_cli.evaluation.results import TrainingResult
from fewshot_cli.features.embed import pool_patches
from fewshot_cli.runtime.device import matching_device, place
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.runtime.runs import Run, stage
from fewshot_cli.training.augment import apply, draw
from fewshot_cli.training.loggers import check_loggers
from fewshot_cli.training.optimise import WEIGHTS, Job, fit
from fewshot_cli.training.sidecar import sidecar
from fewshot_cli.training.validation import validation_model, validator
from fewshot_cli.weights import checkpoint
from fewshot_cli.weights.find import find_weights


class EpisodeObjective(nn.Module):
    """Images [E·way·(shot+query)·patches,3,H,W], episode by episode, class by class, support first → cross-entropy,
    share.

    `patches` is 0 where features are the maps of whole images.
    """

    def __init__(
        self, backbone: nn.Module, head: Head, spec: MetatrainSpec, patches: int, matching_on: torch.device
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.spec, self.patches, self.matching_on = backbone, head, spec, patches, matching_on

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        way, shot, query = self.spec.way, self.spec.shot, self.spec.query
        maps = self.backbone(images)
        if self.patches:
            maps = pool_patches(maps, self.patches)
        with torch.autocast(images.device.type, enabled=False):  # matching stays in float32
            maps = maps.float().to(self.matching_on).unflatten(0, (-1, way, shot + query))
            logits = self.head(maps[:, :, :shot], maps[:, :, shot:].flatten(1, 2))
        labels = torch.arange(way, device=logits.device).repeat_interleave(query).expand(len(logits), -1)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return loss.to(images.device), (logits.detach().argmax(-1) == labels).float().mean().to(images.device)


def metatrain(
    recipe: Recipe,
    root: Path,
    run_dir: Path | None,
    resume: bool,
    processes: Processes,
    given: Path | None,
    log: Sequence[str] = (),
) -> TrainingResult | None:
    """Train backbone and head on episodes of the train split, from pre-trained weights or random ones; returns the
    summary.

    A recipe's phases run one after another, each in a folder of its own below the run directory and each from the best
    weights of the one before. Without a run directory everything is checked and nothing trained.
    """
    if not recipe.phases:
        return _phase(recipe, root, run_dir, resume, processes, given, log)
    phases = {name: _recipe_of(recipe, phase) for name, phase in recipe.phases.items()}
    if run_dir is None:
        for one in phases.values():
            _phase(one, root, None, resume, processes, given, log)
        return None
    store = processes.first(lambda: dataset_of(recipe, root))
    start = _start(recipe, given, processes)
    decided_by = _identity(recipe, store.index["sha256"], start, processes.device)
    run = Run.shared(processes, run_dir, "metatrain", recipe.resolved(), decided_by, resume)
    if (done := processes.first(lambda: run.summary)) is not None:
        return done
    start_from, results, steps = given, dict[str, TrainingResult](), 0
    for name, one in phases.items():
        train = partial(
            _phase,
            one,
            root,
            processes=processes,
            given=start_from,
            log=log,
            before=steps,
        )
        results[name] = stage(processes, run_dir / name, train)
        steps += one.metatrain.epochs * one.metatrain.steps
        start_from = Path(results[name]["weights"])
    return processes.first(lambda: _gathered(run, results))


def _recipe_of(recipe: Recipe, phase: PhaseSpec) -> Recipe:
    """The recipe as it is in one phase."""
    common, changes = recipe.metatrain, dict[str, Any]()
    for key in ("epochs", "steps", "optimizer", "schedule", "train"):
        value = getattr(phase, key)
        if key in ("optimizer", "schedule") and value is not None:  # what it does not say stays as it is
            value = getattr(common, key).model_copy(update={k: getattr(value, k) for k in value.model_fields_set})
        changes |= {key: value} if value is not None else {}
    spec = common.model_copy(update={**changes, "phases": None})
    return recipe.model_copy(update={"metatrain": spec, "head": head_in(recipe, phase.options)})


def _gathered(run: Run, results: dict[str, TrainingResult]) -> TrainingResult:
    """The last phase's weights beside the phases' folders, and the result of all."""
    last = list(results.values())[-1]
    loaded = checkpoint.load(Path(last["weights"]))
    sidecar = {
        **{k: v for k, v in loaded.sidecar.items() if k != "sha256"},
        "phases": {name: result["best"] for name, result in results.items()},
    }
    weights = run.path / WEIGHTS
    result: TrainingResult = {
        "epochs": sum(phase["epochs"] for phase in results.values()),
        "best": last["best"],
        "weights": str(weights),
        "sha256": checkpoint.save_tensors(weights, loaded.tensors, sidecar),
        "phases": results,
    }
    run.finish(result)
    return result


def _start(recipe: Recipe, given: Path | None, processes: Processes) -> checkpoint.Checkpoint | None:
    """The weights to start from, None for random ones."""
    if recipe.metatrain.start == "none" and given is None:
        return None
    return processes.each(lambda: find_weights(recipe, given, stages=("pretrain",))).checkpoint


def _identity(
    recipe: Recipe, data_sha: str, start: checkpoint.Checkpoint | None, device: torch.device
) -> dict[str, Any]:
    return {
        "device": device.type,
        "data": data_sha,
        "start": start and start.sha256,
        "recipe": deciding(recipe, "metatrain"),
    }


def _only(objective: nn.Module, prefixes: tuple[str, ...]) -> None:
    """Train nothing but what lies under the prefixes; batch norms keep updating. Raises `RecipeError` for a prefix that
    does not exist.
    """
    names = [name for name, _ in objective.named_parameters()]
    for prefix in prefixes:
        if not any(name == prefix or name.startswith(prefix + ".") for name in names):
            known = dict.fromkeys(
                ".".join(name.split(".")[:2]) if name.startswith("head.") else name.split(".")[0] for name in names
            )
            raise RecipeError(
                f"metatrain.train: there is nothing to train called {prefix}; there are {', '.join(known)}"
            )
    for name, parameter in objective.named_parameters():
        if prefixes and not any(name == p or name.startswith(p + ".") for p in prefixes):
            parameter.requires_grad_(False)


def _phase(
    recipe: Recipe,
    root: Path,
    run_dir: Path | None,
    resume: bool,
    processes: Processes,
    given: Path | None,
    log: Sequence[str],
    before: int = 0,
) -> TrainingResult | None:
    """One phase; one that has steps `before` it draws other episodes, and starts with what the weights hold of its
    head.
    """
    spec, device = recipe.metatrain, processes.device
    store = processes.first(lambda: dataset_of(recipe, root))
    share = processes.share(spec.episodes_per_step, "metatrain.episodes_per_step")
    start = _start(recipe, given, processes)
    backbone = build_backbone(recipe)
    if start is not None:
        start.fill(backbone, "backbone", f"backbone {recipe.backbone.name}")
    backbone = place(backbone, device)
    head = build_head(recipe.head, backbone.channels, recipe.solver)
    if before and start is not None:
        start.fill_known(head, "head")
    matching_on = matching_device(head.solver, device)
    head.to(matching_on)
    split, extractor = store.split("train"), build_extractor(recipe)
    if extractor.patches and spec.augment.crop != "none":
        raise RecipeError(
            f"metatrain.augment.crop: is {spec.augment.crop}, but the patches of extractor "
            f"{recipe.extractor.name} are the crops; write metatrain.augment.crop: none"
        )
    sampler = Sampler(split, spec.way, spec.shot, spec.query, recipe.seed)
    validated = validation_model(recipe, spec.validation, root, processes, backbone, head)
    check_loggers(log)
    objective = EpisodeObjective(backbone, head, spec, extractor.patches, matching_on)
    _only(objective, spec.train)
    if run_dir is None:
        return None
    run = Run.shared(
        processes,
        run_dir,
        "metatrain",
        recipe.resolved(),
        _identity(recipe, store.index["sha256"], start, device),
        resume,
    )
    side = spec.augment.side or recipe.image.decoded
    if extractor.patches:
        side = extractor.side(recipe.image.size, split.longest_side(recipe.dataset.crop))
    if (done := processes.first(lambda: run.summary)) is not None:
        return done
    pixels = processes.each(lambda: Pixels(split, recipe, side, root, processes))

    def batches(epoch: int, rng: Generator) -> Iterator[Tensor]:
        for step in range(spec.steps):
            first = (before + epoch * spec.steps + step) * spec.episodes_per_step
            episodes = [sampler(first + i) for i in range(spec.episodes_per_step)]
            pick = torch.stack([torch.cat([e.support, e.query], 1).flatten() for e in episodes])
            draws = draw(pixels.sizes[pick.flatten()], spec.augment, recipe.image, rng, extractor)
            part = slice(share.start * pick.shape[1], share.stop * pick.shape[1])
            yield apply(pixels(pick[share].flatten()), draws.part(part), spec.augment, recipe.image, spec.size)

    parts = {"backbone": recipe.backbone, "head": recipe.head}
    job = Job(
        objective,
        lambda *of: pixels.ahead(batches(*of)),
        spec.steps,
        validator(validated, whole_images=False, half=spec.precision == "bf16"),
        {"backbone": backbone, "head": head},
        {
            **sidecar("metatrain", recipe, store, parts, start),
            "classes": split.classes,
            "start": start and start.sha256,
        },
    )
    return fit(run, spec, job, processes, recipe.seed + before, log)
