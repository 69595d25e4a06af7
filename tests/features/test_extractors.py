"""Patches: where they are, how they are cut and embedded, in evaluation and in training."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot_cli.config.load import load_recipe
from fewshot_cli.config.parts import build_extractor
from fewshot_cli.config.schema import AugmentSpec, ImageSpec
from fewshot_cli.contracts import Backbone
from fewshot_cli.data.decode import cut_out
from fewshot_cli.data.store import open_store
from fewshot_cli.evaluation.model import feature_key
from fewshot_cli.features.crops import cut, cut_patches, pixel_boxes
from fewshot_cli.features.embed import CutPatches, Patches, WholeImages, embed
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
    grid = Grid(GridOptions(sizes=(2, 3), ratio=2.0, rounding="ideal"))
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
    plain, _ = Grid(GridOptions(sizes=(2,), ratio=1.0, rounding="ideal")).boxes(torch.ones(1, 2), rng(), training=False)
    assert torch.allclose(plain[0], torch.tensor([[0, 0, 0.5, 0.5], [0.5, 0, 0.5, 0.5], [0, 0.5, 0.5, 0.5], [0.5] * 4]))


def test_grid_in_training_draws_one_ratio_a_image_and_level():
    boxes, flip = Grid(GridOptions(sizes=(1, 5), rounding="ideal")).boxes(torch.ones(200, 2), rng(), training=True)
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
    assert torch.allclose(out[:, 0], images[:, :, 8:, 4:12], atol=1e-5)  # eight pixels to eight: as they are
    assert torch.allclose(out[:, 1].flip(-1), images[:, :, :8, :8], atol=1e-5)


def photo(width: int, height: int) -> Image.Image:
    """A smooth image with fine structure and hard edges."""
    y, x = np.mgrid[:height, :width] / min(width, height)
    waves = [127 * (1 + np.sin(f * x + g * y)) for f, g in ((9, 4), (31, 57), (150, 90))]
    pixels = np.stack(waves, -1)
    pixels[height // 3 : height // 2, width // 4 : width // 2] = (255, 0, 80)
    return Image.fromarray(pixels.round().astype(np.uint8))


@pytest.mark.parametrize(("width", "height"), [(32, 32), (92, 92), (500, 375)])
@pytest.mark.parametrize("size", [32, 84])
def test_crops_and_patches_have_pillows_pixels(width, height, size):
    """Boxes in whole pixels, smaller and larger than the result, at the edges and inside, mirrored or not."""
    image, generator = photo(width, height), rng()
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    boxes = [(0, 0, width, height), (0, 0, width // 2, height // 3), (width // 3, height // 2, width, height)]
    for _ in range(12):
        left, top = (int(torch.randint(0, n - 4, (), generator=generator)) for n in (width, height))
        right = int(torch.randint(left + 4, width + 1, (), generator=generator))
        boxes.append((left, top, right, int(torch.randint(top + 4, height + 1, (), generator=generator))))
    for n, box in enumerate(boxes):
        want = np.array(image.crop(box).resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        if n % 2:
            want = want[..., ::-1]
        share = torch.tensor([[box[0] / width, box[1] / height, (box[2] - box[0]) / width, (box[3] - box[1]) / height]])
        got = cut(tensor, share, torch.tensor([bool(n % 2)]), size)[0].round().numpy()  # Pillow rounds each pass
        assert np.abs(got - want).mean() < 0.3 and np.abs(got - want).max() < 2, (box, np.abs(got - want).max())
        assert pixel_boxes(share, width, height) == [box]
        assert (cut_out(image, [box], [bool(n % 2)], size)[0].numpy() == want).all()


@pytest.mark.parametrize("size", [8, 12, 24, 31, 32, 40])
def test_a_padded_crop_is_as_bright_as_its_image_whatever_its_size(size):
    white = torch.ones(3, 3, 32, 32)
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.125, 0.25, 0.5, 0.5], [0.5, 0.0, 1.0, 1.0]])
    out = cut(white, boxes, torch.tensor([False, True, False]), size, "zeros")
    inner = out[:2, :, 2:-2, 2:-2]  # the outermost pixels of the first see the black beyond the image
    assert torch.allclose(inner, torch.ones_like(inner), atol=1e-5) and torch.allclose(
        out[1], torch.ones(3, size, size)
    )
    assert (out[2, :, 2:-2, : size // 2 - 2] > 0.999).all() and (out[2, :, :, size // 2 + 2 :] == 0).all()


def test_a_box_beyond_the_image_sees_its_nearest_pixels():
    ramp = torch.arange(8.0).expand(1, 3, 8, 8)
    out = cut(ramp, torch.tensor([[-0.25, 0.0, 0.75, 1.0]]), torch.tensor([False]), 6)
    assert torch.allclose(out[0, 0, 0], torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0, 3.0]), atol=1e-5)


def test_a_box_is_a_pixel_at_least_and_stays_within_the_image():
    boxes = torch.tensor([[0.999, 0.0, 0.0001, 0.5], [-0.2, 0.4, 1.5, 0.3], [0.5, 1.0, 0.5, 0.2]])
    assert pixel_boxes(boxes, 10, 20) == [(9, 0, 10, 10), (0, 8, 10, 14), (5, 19, 10, 20)]


def grid_of_the_code(side: int, cells: int, ratio: float) -> list[tuple[int, int]]:
    """Where DeepEMD's code begins and ends the patches along a side, in pixels."""
    cell, enlarged = int(side / cells), int(side / cells * ratio)
    centres = [cell // 2 + i * cell for i in range(cells)]
    return [(max(0, c - enlarged // 2), min(side, c + enlarged // 2)) for c in centres]


@pytest.mark.parametrize(("width", "height"), [(32, 32), (92, 92), (500, 375), (333, 61)])
def test_grid_cells_are_rounded_as_the_code_does(width, height):
    grid = Grid(GridOptions(sizes=(2, 3, 5), ratio=1.7))
    boxes, _ = grid.boxes(torch.tensor([[float(height), float(width)]]), rng(), training=False)
    want = [
        (left, top, right, bottom)
        for cells in (2, 3, 5)
        for top, bottom in grid_of_the_code(height, cells, 1.7)
        for left, right in grid_of_the_code(width, cells, 1.7)
    ]
    assert pixel_boxes(boxes[0], width, height) == want
    ideal, _ = Grid(GridOptions(sizes=(2, 3, 5), ratio=1.7, rounding="ideal")).boxes(torch.ones(1, 2), rng(), False)
    assert (boxes - ideal).abs().max() < 0.05 and not torch.equal(boxes, ideal)


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


class Memory:
    """An image set of given images."""

    def __init__(self, images: list[Image.Image]) -> None:
        self.images, self.cut = images, 0

    def __len__(self) -> int:
        return len(self.images)

    def identities(self) -> list[str]:
        return [f"image {i}" for i in range(len(self))]

    def patches(self, picks, boxes, side, crop="box"):
        self.cut += len(picks)
        chosen = [self.images[i] for i in picks]
        return torch.stack([cut_out(x, *boxes(i, *x.size), side) for i, x in zip(picks, chosen, strict=True)])


@pytest.mark.parametrize("extractor", ["grid", "sampling"])
def test_embedding_cuts_patches_of_the_images_as_they_are_and_pools_each(extractor):
    recipe = load_recipe("glyphs_5w1s", ["image={size: 8, resize: 8}", f"extractor={extractor}"])
    images, here = Memory([photo(w, h) for w, h in ((40, 20), (12, 12), (30, 31))]), Processes(torch.device("cpu"))
    views = CutPatches(images, recipe, here, keep=True)
    maps = embed(Identity(), views, here)
    assert maps.shape == (3, 3, 1, views.patches)
    for i, image in enumerate(images.images):
        boxes, flip = Patches(recipe)(f"image {i}", torch.tensor([float(image.height), float(image.width)]))
        for p, box in enumerate(pixel_boxes(boxes, *image.size)):
            patch = torch.from_numpy(np.array(image.crop(box).resize((8, 8), Image.Resampling.BILINEAR)))
            want = normalise(patch.permute(2, 0, 1)[None], recipe.image)[0].mean((1, 2))
            assert torch.allclose(maps[i, :, 0, p], want, atol=1e-5), (flip[p], p)
    assert torch.equal(embed(Identity(), views, here), maps) and images.cut == 3  # kept
    alone = CutPatches(Memory(images.images[:1]), recipe, here)
    assert torch.allclose(embed(Identity(), alone, here), maps[:1], atol=1e-6)


def test_embedding_whole_images_is_their_centre():
    images = (255 * torch.rand(5, 3, 12, 12, generator=rng())).to(torch.uint8)
    here = Processes(torch.device("cpu"))
    assert torch.equal(embed(Identity(), WholeImages(images, IMAGE, here.device), here), normalise(images, IMAGE))


def drawn(recipe, identities: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes and mirrorings of images with these identities."""
    boxes, flip = zip(*(Patches(recipe)(one, torch.tensor([32.0, 32.0])) for one in identities), strict=True)
    return torch.stack(boxes), torch.stack(flip)


def test_random_patches_come_from_the_seed():
    named = load_recipe("glyphs_5w1s", ["extractor.name=sampling", "extractor.patches=4"])
    (a, flip), (b, _) = drawn(named, "abcdef"), drawn(named, "abcdef")
    other = load_recipe("glyphs_5w1s", ["extractor.name=sampling", "extractor.patches=4"], seed=2)
    assert torch.equal(a, b) and not torch.equal(a, drawn(other, "abcdef")[0])
    assert len(a.flatten(1).unique(dim=0)) == 6
    alone, mirrored = drawn(named, "fc")  # whatever other images there are
    assert torch.equal(alone, a[[5, 2]]) and torch.equal(mirrored, flip[[5, 2]])


def test_a_grid_in_evaluation_is_the_same_for_every_image_and_seed():
    named = load_recipe("glyphs_5w1s", ["extractor={name: grid, ratio: 1.5, rounding: ideal}"])
    boxes, flip = drawn(named, "abc")
    want, _ = Grid(GridOptions(ratio=1.5, rounding="ideal")).boxes(torch.ones(1, 2), rng(), training=False)
    assert torch.equal(boxes, want.expand(3, -1, -1)) and not flip.any()


def test_features_of_random_patches_are_kept_for_each_seed(glyph_root):
    split = open_store(glyph_root, "glyphs").split("val")
    for extractor, differ in (("sampling", True), ("grid", False), ("fcn", False)):
        first, second = (
            feature_key(load_recipe("glyphs_5w1s", [f"extractor={extractor}"], seed=s), split, "w") for s in (1, 2)
        )
        assert (first != second) == differ


def test_training_cuts_patches_from_images_twice_the_input_but_never_enlarged():
    def side(longest: int, *sets: str) -> int:
        recipe = load_recipe("mini_imagenet_5w1s", list(sets))
        return build_extractor(recipe).side(recipe.image.size, longest)

    for name in ("grid", "sampling"):
        assert [side(n, f"extractor={name}") for n in (500, 168, 100, 32)] == [168, 168, 100, 32]
    assert side(500, "extractor={name: grid, side: 100}") == side(32, "extractor={name: grid, side: 100}") == 100


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
