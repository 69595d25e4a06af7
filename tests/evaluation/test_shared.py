"""Models that are opened one after another share what they have in common, and are those that they were alone."""

import torch

from fewshot_cli.config.load import load_recipe
from fewshot_cli.evaluation.model import Model, Shared
from fewshot_cli.runtime.processes import Processes


def opened(root, head, shared=None, **sets):
    recipe = load_recipe("glyphs_5w1s", ["weights=none", f"head={head}", *(f"{k}={v}" for k, v in sets.items())])
    return Model.open(recipe, root, Processes(torch.device("cpu")), with_dataset=True, shared=shared)


def test_a_head_with_random_weights_draws_those_that_it_has_alone(glyph_root):
    shared = Shared()
    opened(glyph_root, "ctx", shared)  # draws from the generator too
    second, alone = opened(glyph_root, "feat", shared), opened(glyph_root, "feat")
    assert alone.head.state_dict() and second.backbone is not alone.backbone
    for name, value in alone.head.state_dict().items():
        assert torch.equal(value, second.head.state_dict()[name]), name


def test_what_another_recipe_needs_is_made_anew(glyph_root):
    shared = Shared()
    first, same = opened(glyph_root, "emd", shared), opened(glyph_root, "knn", shared)
    assert same.backbone is first.backbone and same.split is first.split
    other = opened(glyph_root, "knn", shared, seed=2)
    assert other.backbone is not first.backbone and other.split is first.split
    assert opened(glyph_root, "knn", shared, **{"eval.split": "val"}).split is not first.split
    assert opened(glyph_root, "emd").backbone is not opened(glyph_root, "emd").backbone
