"""Patches: where they are, how they are cut and embedded, in evaluation and in training."""

import json

import pytest
import torch
import torch.nn.functional as F

from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.parts import decoded_side
from fewshot_cli.config.schema import AugmentSpec, ImageSpec
from fewshot_cli.contracts import Backbone
from fewshot_cli.data.store import open_store
from fewshot_cli.evaluation.model import feature_key
from fewshot_cli.features.crops import cut, cut_patches
from fewshot_cli.features.embed import embed, patches_of
from fewshot_cli.features.extractors import Grid, GridOptions, Sampling, SamplingOptions
from fewshot_cli.features.preprocess import normalise
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.training.augment import apply, draw
from fewshot_cli.weights.find import find_weights

IMAGE = ImageSpec(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def augment(images, sizes, spec, image, rng, extractor=None):
    return apply(images, draw(sizes, spec, image, rng, extractor), spec, image)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


class Identity(Backbone):
    """The standardised image itself."""

    channels = 3

    def forward(self, images):
        return images


def test_grid_boxes_are_cells_enlarged_about_their_centres_and_clipped():
    grid = Grid(GridOptions(sizes=(2, 3), ratio=2.0))
    boxes, flip = grid.boxes(torch.full((4, 2), 84.0), rng(), training=False)
    assert grid.patches == 13 and boxes.shape == (4, 13, 4) and not flip.any()
    want = []
    for g in (2, 3):
        for i in range(g):
            for j in range(g):
                left, right = max(0, (j + 0.5) / g - 1 / g), min(1, (j + 0.5) / g + 1 / g)
                top, bottom = max(0, (i + 0.5) / g - 1 / g), min(1, (i + 0.5) / g + 1 / g)
                want.append([left, top, right - left, bottom - top])
    assert torch.allclose(boxes, torch.tensor(want).expand(4, -1, -1), atol=1e-6)
    plain, _ = Grid(GridOptions(sizes=(2,), ratio=1.0)).boxes(torch.ones(1, 2), rng(), training=False)
    assert torch.allclose(plain[0], torch.tensor([[0, 0, 0.5, 0.5], [0.5, 0, 0.5, 0.5], [0, 0.5, 0.5, 0.5], [0.5] * 4]))


def test_grid_in_training_draws_one_ratio_a_image_and_level():
    boxes, flip = Grid(GridOptions(sizes=(1, 5))).boxes(torch.ones(200, 2), rng(), training=True)
    inner = boxes[:, 1 + 12]  # the middle cell of 5×5 reaches no border at ratio ≤ 3 … clipping starts at 5
    assert (
        torch.allclose(inner[:, 2], inner[:, 3]) and 0.2 <= inner[:, 2].min() < 0.25 and 0.55 < inner[:, 2].max() <= 0.6
    )
    assert torch.allclose(inner[:, 2], boxes[:, 1 + 11, 2].clamp(max=1), atol=1e-6) and (boxes[:, 0, 2:] == 1).all()
    assert 0.4 < flip.float().mean() < 0.6


def test_sampling_draws_boxes_inside_the_image_with_the_area_asked_for():
    boxes, flip = Sampling(SamplingOptions(patches=40, scale=(0.2, 0.5))).boxes(torch.full((50, 2), 60.0), rng(), False)
    area = boxes[..., 2] * boxes[..., 3]
    assert boxes.shape == (50, 40, 4) and flip.shape == (50, 40) and 0.4 < flip.float().mean() < 0.6
    assert (boxes[..., :2] >= 0).all() and (boxes[..., :2] + boxes[..., 2:] <= 1 + 1e-6).all()
    assert area.min() > 0.199 and area.max() < 0.501


def test_cut_takes_the_box_it_is_given():
    images = torch.rand(2, 3, 16, 16, generator=rng())
    boxes = torch.tensor([[[0.25, 0.5, 0.5, 0.5], [0, 0, 0.5, 0.5]]]).expand(2, -1, -1)
    out = cut_patches(images, boxes, torch.tensor([[False, True]]).expand(2, -1), 8).unflatten(0, (2, 2))
    assert out.shape == (2, 2, 3, 8, 8)
    fine = F.interpolate(images[:, :, 8:, 4:12], size=16, mode="bilinear", align_corners=False)
    assert torch.allclose(
        out[:, 0][..., 1:-1, 1:-1], F.avg_pool2d(fine, 2)[..., 1:-1, 1:-1], atol=1e-5
    )  # borders see on
    again = cut(images, boxes[:, 1], torch.tensor([False, False]), 8)
    assert torch.allclose(out[:, 1].flip(-1), again, atol=1e-6)


def test_patches_at_the_images_edge_have_no_dark_rim():
    white = torch.ones(1, 3, 8, 8)
    boxes, flip = Grid(GridOptions(sizes=(2,))).boxes(torch.full((1, 2), 8.0), rng(), training=False)
    assert torch.allclose(cut_patches(white, boxes, flip, 8), torch.ones(4, 3, 8, 8))


def test_training_crops_have_no_dark_rim():
    white = torch.full((40, 3, 8, 8), 255, dtype=torch.uint8)
    out = augment(white, torch.full((40, 2), 8.0), AugmentSpec(crop="random_resized"), IMAGE, rng())
    assert torch.allclose(out, torch.ones_like(out))
    out = augment(white, torch.full((40, 2), 8.0), AugmentSpec(crop="pad"), IMAGE, rng())
    assert out.min() == -1  # what is padded is black


def test_shrinking_a_large_image_averages_instead_of_aliasing():
    stripes = torch.tensor([0.0, 1.0]).repeat(32).expand(1, 3, 64, 64)
    out = cut(stripes, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([False]), 8)
    assert (out - 0.5).abs().max() < 0.1


def test_embedding_patches_pools_each_and_does_not_depend_on_the_batch():
    images = (255 * torch.rand(5, 3, 12, 12, generator=rng())).to(torch.uint8)
    grid = Grid(GridOptions(sizes=(2,)))
    boxes, flip = grid.boxes(torch.full((5, 2), 12.0), rng(), training=False)
    maps = embed(Identity(), images, IMAGE, Processes(torch.device("cpu")), patches=(boxes, flip))
    assert maps.shape == (5, 3, 1, 4)
    for i in range(5):
        for p in range(4):
            patch = cut(images[i : i + 1].float() / 255, boxes[i, p][None], flip[i, p][None], 8)
            assert torch.allclose(maps[i, :, 0, p], ((patch - 0.5) / 0.5)[0].mean((1, 2)), atol=1e-5)
    alone = embed(Identity(), images[3:], IMAGE, Processes(torch.device("cpu")), patches=(boxes[3:], flip[3:]))
    assert torch.allclose(alone, maps[3:], atol=1e-6)
    whole = embed(Identity(), images, IMAGE, Processes(torch.device("cpu")))
    assert torch.equal(whole, normalise(images, IMAGE))


def test_random_patches_come_from_the_seed():
    named = load_recipe("glyphs_5w1s", ["extractor.name=sampling", "extractor.patches=4"])
    sizes, images = torch.full((6, 2), 32.0), list("abcdef")
    (a, flip), (b, _) = patches_of(named, images, sizes), patches_of(named, images, sizes)
    other = load_recipe("glyphs_5w1s", ["extractor.name=sampling", "extractor.patches=4"], seed=2)
    assert torch.equal(a, b) and not torch.equal(a, patches_of(other, images, sizes)[0])
    assert len(a.flatten(1).unique(dim=0)) == 6
    alone, mirrored = patches_of(named, list("fc"), sizes[:2])  # whatever other images there are
    assert torch.equal(alone, a[[5, 2]]) and torch.equal(mirrored, flip[[5, 2]])


def test_a_grid_in_evaluation_is_the_same_for_every_image_and_seed():
    named = load_recipe("glyphs_5w1s", ["extractor={name: grid, ratio: 1.5}"])
    boxes, flip = patches_of(named, list("abc"), torch.full((3, 2), 32.0))
    want, _ = Grid(GridOptions(ratio=1.5)).boxes(torch.ones(1, 2), rng(), training=False)
    assert torch.equal(boxes, want.expand(3, -1, -1)) and not flip.any()


def test_features_of_random_patches_are_kept_for_each_seed(glyph_root):
    split = open_store(glyph_root, "glyphs").split("val")
    for extractor, differ in (("sampling", True), ("grid", False), ("fcn", False)):
        first, second = (
            feature_key(load_recipe("glyphs_5w1s", [f"extractor={extractor}"], seed=s), split, "w") for s in (1, 2)
        )
        assert (first != second) == differ


def test_patches_are_cut_from_larger_images_than_maps_are_taken_of():
    sides = [
        decoded_side(load_recipe("mini_imagenet_5w1s", sets))
        for sets in ([], ["extractor=grid"], ["extractor=sampling"], ["extractor={name: grid, side: 100}"])
    ]
    assert sides == [92, 168, 168, 100]


def test_a_range_with_swapped_ends_is_refused(fsl):
    for text in ("extractor={name: sampling, scale: [0.9, 0.1]}", "pretrain.augment.scale=[0.9, 0.1]"):
        code, _, err = fsl("eval", "--recipe", "glyphs_5w1s", "--set", text)
        assert code == 2 and "the lower end 0.9 lies above the upper end 0.1" in err


@pytest.mark.slow
def test_validation_while_patches_are_trained_is_their_evaluation(fsl, tiny, pretrained):
    grid, eight = ("--set", "extractor={name: grid, sizes: [1, 2]}"), ("--set", "eval.split=val", "--episodes", "8")
    validated = ("--set", "metatrain.epochs=1", "--set", "metatrain.validation.episodes=8")
    uncropped, start = ("--set", "metatrain.augment.crop=none"), ("--weights", pretrained / "weights.safetensors")
    code, out, err = fsl("metatrain", *tiny.words, *grid, *validated, *uncropped, *start)
    assert code == 0, err
    made = json.loads(out)
    evaluated = ("eval", *tiny.words, *eight, "--weights", made["weights"], "--format", "json")
    code, out, err = fsl(*evaluated, *grid)
    assert code == 0 and json.loads(out)["accuracy"] == pytest.approx(made["best"]["accuracy"]), err
    code, out, _ = fsl(*evaluated)
    assert json.loads(out)["accuracy"] != pytest.approx(made["best"]["accuracy"])  # maps of whole images


def test_shipped_pre_training_starts_meta_training_by_name():
    assert find_weights(load_recipe("fc100_5w1s_conv64"), None, ("pretrain",)).label == "shipped:fc100_conv64_pretrain"


def test_recipes_that_share_a_pre_training_name_it():
    named = [load_recipe(f"mini_imagenet_5w1s{tail}") for tail in ("", "_grid", "_sampling", "_pyramid")]
    assert {r.start for r in named} == {"mini_imagenet_resnet12"} and len({r.weights for r in named}) == 4


def test_augmentation_in_training_gives_the_extractors_patches():
    images = (255 * torch.rand(3, 3, 8, 8, generator=rng())).to(torch.uint8)
    grid = Grid(GridOptions(sizes=(1, 2)))
    out = augment(images, torch.full((3, 2), 8.0), AugmentSpec(crop="none", flip=False), IMAGE, rng(), grid)
    assert out.shape == (15, 3, 8, 8)
    assert torch.allclose(
        out[0], normalise(images[:1], IMAGE)[0], atol=1e-5
    )  # the level of one cell is the whole image


@pytest.mark.slow
@pytest.mark.parametrize("extractor", ["grid", "sampling"])
def test_patches_are_evaluated_and_meta_trained(fsl, tiny, pretrained, extractor):
    words = (*tiny.words, "--set", f"extractor={extractor}", "--weights", pretrained / "weights.safetensors")
    code, out, err = fsl("eval", *words, "--episodes", "30", "--format", "json")
    assert code == 0, err
    assert json.loads(out)["accuracy"] > 25
    code, out, err = fsl("metatrain", *words, "--set", "metatrain.augment.crop=none")
    assert code == 0, err
    code, _, err = fsl("metatrain", *words)
    assert code == 2 and "write metatrain.augment.crop: none" in err


def test_unknown_options_of_an_extractor_are_told_with_their_place(fsl):
    code, _, err = fsl("eval", "--recipe", "glyphs_5w1s", "--set", "extractor.name=grid", "--set", "extractor.ratoi=2")
    assert code == 2 and "extractor.ratoi: unknown key (did you mean 'ratio'?)" in err
    code, _, err = fsl(
        "eval", "--recipe", "glyphs_5w1s", "--set", "extractor.name=sampling", "--set", "extractor.patches=0"
    )
    assert code == 2 and "extractor.patches" in err
