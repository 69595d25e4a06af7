"""The key of the feature cache: whatever changes the features changes it, and nothing else does."""

from itertools import combinations
from types import SimpleNamespace

import pytest
import torch

from fewshot_cli.config.load import load_recipe
from fewshot_cli.evaluation.model import feature_key
from fewshot_cli.features.cache import cached_features
from fewshot_cli.runtime.processes import Processes

MAPS, PATCHES = "mini_imagenet_5w1s", "mini_imagenet_5w1s_sampling"  # the second one draws its patches
DATA, WEIGHTS = "a" * 64, "b" * 64

DIFFERENT = [
    (),
    ("dataset.crop=raw",),  # of one store, whose hash is the same
    ("image.size=80",),
    ("image.resize=100",),
    ("image.mean=[0.5, 0.5, 0.5]",),
    ("image.std=[0.5, 0.5, 0.5]",),
    ("image.interpolation=bicubic",),
    ("backbone=conv64",),
    ("backbone={name: conv64, channels: 32}",),
    ("backbone={name: conv64, last_pool: false}",),
    ("extractor=grid",),
    ("extractor={name: grid, sizes: [3, 2]}",),
    ("extractor={name: grid, ratio: 1.5}",),
    ("extractor={name: grid, side: 100}",),
    ("extractor=sampling",),
    ("extractor={name: sampling, patches: 5}",),
    ("extractor={name: sampling, scale: [0.2, 1.0]}",),
]

ALIKE = [
    "description=other words",
    "dataset.name=cub",  # the hash of the split says what it holds
    "dataset.store=copy",
    "weights=others",  # and that of the weights what these are
    "head=prototype",
    "head={name: emd, temperature: 3.0}",
    "solver=sinkhorn",
    "episode={way: 10, shot: 5, query: 3}",
    "eval.split=val",
    "eval.episodes=7",
    "eval.protocol=classification",
    "pretrain={epochs: 3, augment: {crop: pad}}",
    "metatrain={epochs: 3, shot: 5}",
    "expect={accuracy: 50.0, tolerance: 1.0, source: a test}",
]


def key_of(*sets, base=MAPS, data=DATA, weights=WEIGHTS):
    """The key of a recipe with some of its keys set, of a split and of weights with these hashes."""
    return feature_key(load_recipe(base, list(sets)), SimpleNamespace(sha256=data), weights)


def test_what_decides_the_features_decides_the_key():
    keys = {sets: key_of(*sets) for sets in DIFFERENT}
    assert [pair for pair in combinations(keys, 2) if keys[pair[0]] == keys[pair[1]]] == []


def test_the_images_and_the_weights_decide_the_key():
    assert len({key_of(), key_of(data="c" * 64), key_of(weights="c" * 64), key_of(data=WEIGHTS, weights=DATA)}) == 4


@pytest.mark.parametrize("setting", ALIKE)
def test_what_the_features_do_not_depend_on_leaves_the_key(setting):
    assert key_of(setting) == key_of()


def test_the_seed_decides_only_where_patches_are_drawn_at_random():
    assert key_of("seed=2") == key_of("seed=1")
    assert key_of("seed=2", "extractor=grid") == key_of("seed=1", "extractor=grid")
    assert key_of("seed=2", base=PATCHES) != key_of("seed=1", base=PATCHES)


class Boxed:
    """Two images of a store with boxes, dark inside their box and bright around it."""

    store, split, sha256 = "boxed", "test", DATA

    def __init__(self):
        self.decoded = []

    def __len__(self):
        return 2

    def identities(self):
        return ["0", "1"]

    def decode(self, side, crop="box", tick=None, only=None):
        self.decoded.append(crop)
        level = {"box": 10, "raw": 200}[crop]
        return torch.full((len(only), 3, side, side), level, dtype=torch.uint8), torch.full((len(only), 2), float(side))


def test_boxes_and_whole_images_do_not_share_features(tmp_path):
    split, world = Boxed(), Processes(torch.device("cpu"))

    def features(crop):
        loaded = load_recipe(MAPS, [f"dataset.crop={crop}", "image.size=8", "image.resize=8"])
        pooled = torch.nn.AvgPool2d(4)
        pooled.takes_features = False
        return cached_features(loaded, split, pooled, feature_key(loaded, split, WEIGHTS), tmp_path, world)[0]

    box, raw = features("box"), features("raw")
    assert box.max() < raw.min()
    assert torch.equal(features("box"), box) and torch.equal(features("raw"), raw)
    assert split.decoded == ["box", "raw"]  # the second time both came from the cache
