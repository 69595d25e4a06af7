"""The three ways of DeepEMD's journal extension to take local features: a map, a grid of patches, random patches."""

from typing import Annotated, Literal, TypeVar

import torch
from pydantic import AfterValidator, Field
from torch import Generator, Tensor

from fewshot_cli.config.schema import Share, ascending
from fewshot_cli.contracts import Extractor, Options
from fewshot_cli.features.crops import random_resized


class FCN(Extractor[Options]):
    """Every position of the backbone's map is a local feature (DeepEMD-FCN)."""


class PatchOptions(Options):
    """What patches are cut from."""

    side: int | None = Field(
        None,
        ge=8,
        le=1024,
        description="side of the images that training cuts patches from (default: twice the input's, but no more than "
        "the images have); evaluation cuts them from the images as they are",
    )


PatchT = TypeVar("PatchT", bound=PatchOptions)


class _Patches(Extractor[PatchT]):
    """Patches are cut from the whole image; in training from one kept large enough that a small one is not blurred."""

    def side(self, size: int, longest: int) -> int:
        """As `Extractor.side`."""
        return self.options.side or super().side(size, longest)


class GridOptions(PatchOptions):
    """The image pyramid."""

    sizes: tuple[Annotated[int, Field(ge=1, le=20)], ...] = Field(
        (2, 3), min_length=1, max_length=8, description="cells per side at each level; 2 and 3 give 13 patches"
    )
    ratio: float = Field(2.0, ge=1, le=10, description="how much larger than its cell a patch is, for context")
    rounding: Literal["code", "ideal"] = Field(
        "code", description="cells and patches in whole pixels, rounded as the public code does, or as they would be"
    )


class Grid(_Patches[GridOptions]):
    """Cells of an image pyramid, each enlarged about its centre for context, are embedded and pooled (DeepEMD-Grid).

    In training the ratio is drawn from 1 to 3 for each image and level, and each patch is mirrored half the time.
    """

    def __init__(self, options: GridOptions | None = None) -> None:
        super().__init__(options)
        self.patches = sum(size * size for size in self.options.sizes)

    def boxes(self, sizes: Tensor, rng: Generator, training: bool) -> tuple[Tensor, Tensor]:
        """As `Extractor.boxes`, level by level, row by row."""
        count, levels = len(sizes), []
        for size in self.options.sizes:
            drawn = 1 + 2 * torch.rand(count, 1, generator=rng) if training else torch.tensor([[self.options.ratio]])
            cells = _rounded_cells if self.options.rounding == "code" else _cells
            high, wide = (cells(side[:, None], size, drawn.expand(count, 1)) for side in sizes.unbind(1))
            across, down = wide[:, None].expand(-1, size, -1, -1), high[:, :, None].expand(-1, -1, size, -1)
            levels.append(torch.stack([across[..., 0], down[..., 0], across[..., 1], down[..., 1]], -1).flatten(1, 2))
        flip = torch.rand(count, self.patches, generator=rng) < (0.5 if training else 0.0)
        return torch.cat(levels, 1), flip

    def tiles(self, boxes: Tensor) -> Tensor:
        """The cells before they were enlarged."""
        plain = Grid(self.options.model_copy(update={"ratio": 1.0, "rounding": "ideal"}))
        return plain.boxes(torch.ones(1, 2), Generator(), False)[0][0]


def _cells(side: Tensor, count: int, ratio: Tensor) -> Tensor:
    """Where enlarged cells lie along a side [N,1] of images, as shares: [N,count,2] (the begin and the length)."""
    centre = (torch.arange(count) + 0.5) / count
    low = (centre - ratio / (2 * count)).clamp(min=0)
    return torch.stack([low, (centre + ratio / (2 * count)).clamp(max=1) - low], -1)


def _rounded_cells(side: Tensor, count: int, ratio: Tensor) -> Tensor:
    """The same in whole pixels as DeepEMD's code rounds them: cells of ⌊side/count⌋, halves rounded down.

    A cell keeps a pixel at least.
    """
    cell = (side / count).floor()
    half = ((side * ratio / count).floor() / 2).floor()
    centre = (cell / 2).floor() + cell * torch.arange(count)
    low = torch.minimum((centre - half).clamp(min=0), side - 1)
    high = torch.minimum(torch.maximum(centre + half, low + 1), side)
    return torch.stack([low / side, (high - low) / side], -1)


class SamplingOptions(PatchOptions):
    """The random patches."""

    patches: int = Field(9, ge=1, le=400, description="patches of an image")
    scale: Annotated[tuple[Share, Share], AfterValidator(ascending)] = Field(
        (0.08, 1.0), description="share of the image's area that a patch covers"
    )


class Sampling(_Patches[SamplingOptions]):
    """Random resized crops, mirrored half the time, are embedded and pooled (DeepEMD-Sampling).

    They are random in evaluation too, drawn for each image from the recipe's seed.
    """

    random = True

    def __init__(self, options: SamplingOptions | None = None) -> None:
        super().__init__(options)
        self.patches = self.options.patches

    def boxes(self, sizes: Tensor, rng: Generator, training: bool) -> tuple[Tensor, Tensor]:
        """As `Extractor.boxes`."""
        boxes = random_resized(sizes.repeat_interleave(self.patches, 0), self.options.scale, rng)
        flip = torch.rand(len(sizes), self.patches, generator=rng) < 0.5
        return boxes.unflatten(0, (len(sizes), self.patches)), flip
