"""A first recipe of one's own, with comments: an installed recipe as its base, and what was answered on top of it."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from fewshot_cli import registry
from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.places import chosen_parts, recipes_of
from fewshot_cli.config.schema import OWN, PartSpec, Recipe

# For a user's own photos: backbones whose weights have seen other images, the best first, and their recipes by shots.
_PHOTOS = {
    "efficientnet_lite": "images_5w{}s_lite0",
    "resnet12": "cifar_fs_5w{}s",
    "conv64": "cifar_fs_5w{}s_conv64",
}
IMAGES = "images"  # the dataset of one's own photos


@dataclass(frozen=True)
class Answers:
    """What `fsl init` asks: a `dataset` by name, and the name of its `store`; a `backbone`; `shots`, the examples of
    each class; whether a `gpu` is there to train on; the classes (`way`) and queries of an episode; and the `source`
    of one's own photos.
    """

    dataset: str
    store: str
    backbone: str
    shots: int
    gpu: bool
    way: int = 5
    query: int = 15
    source: Path | None = None


def benchmarks() -> list[str]:
    """The datasets that installed recipes evaluate by episodes, but not one's own photos."""
    return [name for name in registry.entries("datasets") if name != IMAGES and any(map(_shots, recipes_of(name)))]


def backbones(dataset: str) -> list[str]:
    """The backbones for which there are recipes with a dataset, the one to begin with first."""
    return list(_PHOTOS) if dataset == IMAGES else list(_bases(dataset, 1))


def base_of(answers: Answers) -> Recipe:
    """The installed recipe that one's own is based on. Raises `KeyError` where there is none for the backbone."""
    kind = 1 if answers.shots == 1 else 5
    if answers.dataset == IMAGES:
        return load_recipe(_PHOTOS[answers.backbone].format(kind))
    return load_recipe(_bases(answers.dataset, kind)[answers.backbone])


def _bases(dataset: str, shots: int) -> dict[str, str]:
    """For each backbone the plainest recipe of DeepEMD with 1 or 5 shots, which has the shortest name."""
    made: dict[str, str] = {}
    for name in sorted(recipes_of(dataset), key=lambda name: (len(name), name)):
        parts = chosen_parts(name)
        if _shots(name) == shots and parts[("head",)] in ("emd", "sfc"):
            made.setdefault(parts[("backbone",)], name)
    return made


def _shots(recipe: str) -> int | None:
    """The shots in the name of an installed recipe with episodes, `<dataset>_<way>w<shot>s[_<variant>]`."""
    found = re.search(r"_\d+w(\d+)s(_|$)", recipe)
    return int(found[1]) if found else None


def written(answers: Answers, file: str) -> str:
    """The text of the recipe file. Raises `KeyError` as `base_of`."""
    base = base_of(answers)
    what = "your own photos" if answers.dataset == IMAGES else answers.dataset
    precision, episodes = ("bf16", 2000) if answers.gpu else ('"32"', 600)
    return f"""\
# A recipe for {what}, written by `fsl init`. What is not given here comes from {base.name}:
# `fsl show recipe {file}` prints every key, `fsl recipe set KEY=VALUE {file}` changes one.
base: {base.name}
description: {answers.shots}-shot classification of {what} with {answers.backbone}

# {_ABOUT_PHOTOS if answers.dataset == IMAGES else _ABOUT_BENCHMARK}
dataset: {_dataset(answers, base)}

# The backbone turns an image into a map of local features. Others for these data: {_others(answers)}.
backbone: {_part(base.backbone)}
# {_ABOUT_OWN if base.weights == OWN else _ABOUT_NAMED}
weights: {base.weights or base.name}

# The head compares maps: emd matches them by optimal transport, sfc first learns one map for each class from several
# examples, prototype is the quick baseline. `fsl list heads` names all, `fsl show head {base.head.name}` its options.
head: {{name: {base.head.name}}}

# An episode has so many classes (way), labelled images of each (shot), and images of each to label (query).
episode: {{way: {answers.way}, shot: {answers.shots}, query: {answers.query}}}
# Four times as many episodes make the interval half as wide.
eval: {{split: test, episodes: {episodes}}}
seed: 1

# Training: `fsl pretrain --recipe {file}`, then `fsl metatrain --recipe {file}`.
# bf16 is quicker on a GPU; "32" is right for a computer without one.
pretrain: {{precision: {precision}}}
metatrain: {{precision: {precision}}}
"""


_ABOUT_BENCHMARK = "The images: `fsl list datasets` names all and says which are prepared."
_ABOUT_PHOTOS = (
    "The images, as `fsl prepare images` stores them; classify, match and retrieve take folders as they are."
)
_ABOUT_OWN = "The backbone brings its weights."
_ABOUT_NAMED = "Trained weights by name: `fsl weights list` shows those that are installed. --weights takes a file."


def _others(answers: Answers) -> str:
    others = [name for name in backbones(answers.dataset) if name != answers.backbone]
    return ", ".join(others) or "train one of `fsl list backbones`"


def _dataset(answers: Answers, base: Recipe) -> str:
    store = f", store: {answers.store}" if answers.store != answers.dataset else ""
    return f"{{name: {answers.dataset}{store}, crop: {'raw' if answers.dataset == IMAGES else base.dataset.crop}}}"


def _part(part: PartSpec) -> str:
    """A part with the options that are not at their defaults, on one line."""
    options = json.loads(part.options.model_dump_json(exclude_defaults=True))
    return (
        "{"
        + ", ".join([f"name: {part.name}", *(f"{key}: {json.dumps(value)}" for key, value in options.items())])
        + "}"
    )
