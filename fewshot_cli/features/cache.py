"""Embed a split once; the cache every evaluation reads."""

from pathlib import Path
from time import perf_counter

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fewshot_cli.config.parts import decoded_side
from fewshot_cli.config.schema import Recipe
from fewshot_cli.contracts import Backbone
from fewshot_cli.data.store import ImageSet
from fewshot_cli.errors import DataError
from fewshot_cli.features.embed import embed, patches_of
from fewshot_cli.runtime.console import progress, say
from fewshot_cli.runtime.files import atomic
from fewshot_cli.runtime.processes import Processes


def cached_features(
    recipe: Recipe, split: ImageSet, backbone: Backbone, key: str, root: Path, processes: Processes
) -> tuple[Tensor, float]:
    """Features [N,d,h,w] of a split and the seconds it took to have them; kept under `<root>/features`.

    A cache that cannot be written is said on stderr and done without.
    """
    start, device = perf_counter(), processes.device
    path = root / "features" / f"{key}-{device.type}.safetensors"
    if all(processes.gather(path.is_file())):
        try:
            maps = load_file(path)["maps"]
        except (SafetensorError, KeyError, OSError):
            maps = torch.empty(0)
        if all(processes.gather(len(maps) == len(split))):
            return maps.to(device), perf_counter() - start
        say(f"note: {path} is damaged and will be made again")
    with progress(f"decode {split.store}/{split.split}", len(split)) as bar:
        images, sizes = split.decode(decoded_side(recipe), recipe.dataset.crop, bar.update)
    with progress(f"embed {split.store}/{split.split}", len(split)) as bar:
        maps = embed(
            backbone.to(device),
            images,
            recipe.image,
            processes,
            bar.update,
            patches_of(recipe, split.identities(), sizes),
        )
    try:
        if processes.rank == 0:
            with atomic(path) as part:
                save_file({"maps": maps.cpu()}, part)
    except DataError as error:
        say(f"note: features are not cached: {error}")
    return maps, perf_counter() - start
