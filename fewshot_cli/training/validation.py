"""What both training verbs need: decoded pictures, validation by episodes, and the sidecar."""

from collections.abc import Callable
from pathlib import Path

from fewshot_cli.config.parts import build_head, decoded_side, matching_device
from fewshot_cli.config.schema import PartSpec, Recipe, ValidateSpec
from fewshot_cli.contracts import Backbone, Head
from fewshot_cli.data.episodes import Sampler
from fewshot_cli.data.pixels import Pixels
from fewshot_cli.data.store import Store
from fewshot_cli.evaluation import episodes
from fewshot_cli.evaluation.stats import mean_ci95
from fewshot_cli.features.embed import embed, patches_of
from fewshot_cli.runtime.processes import World


def validation_episodes(recipe: Recipe, spec: ValidateSpec, store: Store) -> Sampler:
    """The episodes of validation. Raises `DataError` when the split cannot fill one."""
    return Sampler(store.split("val"), recipe.episode.way, spec.shot, recipe.episode.query, recipe.seed)


def validator(
    recipe: Recipe, spec: ValidateSpec, store: Store, backbone: Backbone, own: Head | None, root: Path, world: World
) -> Callable[[], dict[str, float]]:
    """Accuracy and interval of fixed validation episodes with the backbone as it is, shared out over the processes.

    `own` is the head being trained; without one (pre-training) features are the maps of whole pictures, as DeepEMD's
    first stage knows no patches.
    """
    split, sampler = store.split("val"), validation_episodes(recipe, spec, store)
    named: PartSpec = spec.head or recipe.head
    head = own if own is not None and named == recipe.head else build_head(named, backbone.channels, recipe.solver)
    home = matching_device(head, world.device)
    side = recipe.image.decoded if own is None else decoded_side(recipe)
    pixels = world.each(lambda: Pixels(split, recipe, side, root, world))
    patches = patches_of(recipe, split.identities(), pixels.sizes) if own is not None else None

    def validate() -> dict[str, float]:
        head.eval()
        maps = embed(backbone, pixels.images, recipe.image, world, patches=patches)
        accuracies: list[float] = []
        batch = episodes.episodes_per_call(head, sampler, maps)
        episodes.run_episodes(
            head,
            maps.to(home),
            sampler,
            range(spec.episodes),
            batch,
            lambda records: accuracies.extend(r["accuracy"] for r in records),
            world=world,
        )
        mean, ci95 = mean_ci95(accuracies)
        return {"accuracy": mean, "ci95": ci95}

    return validate
