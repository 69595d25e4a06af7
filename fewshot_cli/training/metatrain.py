"""Meta-training: episodes, end to end through the head and its transport problems (DeepEMD, section 4.1)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from fewshot_cli import build
from fewshot_cli.contracts import Head
from fewshot_cli.engine import World
from fewshot_cli.episodes import Sampler
from fewshot_cli.errors import RecipeError
from fewshot_cli.features import pool_patches
from fewshot_cli.runs import Run
from fewshot_cli.schema import MetatrainSpec, Recipe
from fewshot_cli.training import data
from fewshot_cli.training.augment import apply, draw
from fewshot_cli.training.loop import Job, check_board, fit


class EpisodeObjective(nn.Module):
    """Images [E·way·(shot+query)·patches,3,H,W], episode by episode, class by class, support first → cross-entropy, share.

    `patches` is 0 where features are the maps of whole pictures.
    """

    def __init__(self, backbone: nn.Module, head: Head, spec: MetatrainSpec, patches: int, home: torch.device) -> None:
        super().__init__()
        self.backbone, self.head, self.spec, self.patches, self.home = backbone, head, spec, patches, home

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        way, shot, query = self.spec.way, self.spec.shot, self.spec.query
        maps = self.backbone(images)
        if self.patches:
            maps = pool_patches(maps, self.patches)
        with torch.autocast(images.device.type, enabled=False):  # matching stays in float32
            maps = maps.float().to(self.home).unflatten(0, (-1, way, shot + query))
            logits = self.head(maps[:, :, :shot], maps[:, :, shot:].flatten(1, 2))
        labels = torch.arange(way, device=logits.device).repeat_interleave(query).expand(len(logits), -1)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return loss.to(images.device), (logits.detach().argmax(-1) == labels).float().mean().to(images.device)


def metatrain(recipe: Recipe, root: Path, run_dir: Path | None, resume: bool, world: World, given: Path | None,
              board: bool = False) -> dict[str, Any] | None:  # fmt: skip
    """Train backbone and head on episodes of the train split, from pre-trained weights; returns the summary.

    Without a run directory everything is checked and nothing trained.
    """
    spec, device = recipe.metatrain, world.device
    store = world.first(lambda: build.store(recipe, root))
    own = world.share(spec.episodes_per_step, "metatrain.episodes_per_step")
    start = world.each(lambda: build.weights(recipe, given, stages=("pretrain",)))
    backbone = build.backbone(recipe)
    start.checkpoint.fill(backbone, "backbone", f"backbone {recipe.backbone.name}")
    backbone = backbone.to(device, memory_format=torch.channels_last)
    head = build.head(recipe.head, backbone.channels, recipe.solver)
    home = build.matching_device(head, device)
    head.to(home)
    split, extractor = store.split("train"), build.extractor(recipe)
    if extractor.patches and spec.augment.crop != "none":
        raise RecipeError(f"metatrain.augment.crop: is {spec.augment.crop}, but the patches of extractor "
                          f"{recipe.extractor.name} are the crops; write metatrain.augment.crop: none")  # fmt: skip
    sampler = Sampler(split, spec.way, spec.shot, spec.query, recipe.seed)
    data.validation_episodes(recipe, spec.validation, store)
    check_board(board)
    if run_dir is None:
        return None
    drop = ("pretrain", "eval", "weights")
    run = Run.shared(world, run_dir, "metatrain", recipe, {
        "device": device.type, "data": store.index["sha256"], "start": start.checkpoint.sha256,
        "recipe": {k: v for k, v in recipe.identity().items() if k not in drop}}, resume)  # fmt: skip
    side = build.side(recipe) if extractor.patches else spec.augment.side or recipe.image.decoded
    if (done := world.first(lambda: run.summary)) is not None:
        return done
    pixels = world.each(lambda: data.Pixels(split, recipe, side, root, world))

    def batches(epoch: int, rng: Generator) -> Iterator[Tensor]:
        for step in range(spec.steps):
            first = (epoch * spec.steps + step) * spec.episodes_per_step
            episodes = [sampler(first + i) for i in range(spec.episodes_per_step)]
            pick = torch.stack([torch.cat([e.support, e.query], 1).flatten() for e in episodes])
            draws = draw(pixels.sizes[pick.flatten()], spec.augment, recipe.image, rng, extractor)
            part = slice(own.start * pick.shape[1], own.stop * pick.shape[1])
            yield apply(pixels(pick[own].flatten()), draws.part(part), spec.augment, recipe.image)

    parts = {"backbone": recipe.backbone, "head": recipe.head}
    job = Job(EpisodeObjective(backbone, head, spec, extractor.patches, home), lambda *of: pixels.ahead(batches(*of)), spec.steps,
              data.validator(recipe, spec.validation, store, backbone, head, root, world),
              {"backbone": backbone, "head": head},
              {**data.sidecar("metatrain", recipe, store, parts), "start": start.checkpoint.sha256})  # fmt: skip
    return fit(run, spec, job, world, recipe.seed, board)
