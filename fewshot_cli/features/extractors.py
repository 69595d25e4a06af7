"""The three ways of DeepEMD's journal extension to take local features: a map, a grid of patches, random patches."""

from typing import Annotated, TypeVar

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
        None, ge=8, le=1024, description="side of the images that patches are cut from (default: twice the input's)"
    )


PatchT = TypeVar("PatchT", bound=PatchOptions)


class _Patches(Extractor[PatchT]):
    """Patches are cut from the whole image, kept large enough that a small one is not blurred."""

    def side(self, size: int, decoded: int) -> int:
        """As `Extractor.side`."""
        return self.options.side or 2 * size


class GridOptions(PatchOptions):
    """The image pyramid."""

    sizes: tuple[Annotated[int, Field(ge=1, le=20)], ...] = Field(
        (2, 3), min_length=1, max_length=8, description="cells a side at each level; 2 and 3 give 13 patches"
    )
    ratio: float = Field(2.0, ge=1, le=10, description="how much larger than its cell a patch is, for context")


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
            ratio = 1 + 2 * torch.rand(count, 1, generator=rng) if training else torch.full((1, 1), self.options.ratio)
            centre = (torch.arange(size) + 0.5) / size
            low = (centre - ratio / (2 * size)).clamp(min=0)
            span = (centre + ratio / (2 * size)).clamp(max=1) - low
            low, span = (x.expand(count, size) for x in (low, span))
            across = torch.stack([low, span], -1)[:, None].expand(-1, size, -1, -1)
            down = across.transpose(1, 2)
            levels.append(torch.stack([across[..., 0], down[..., 0], across[..., 1], down[..., 1]], -1).flatten(1, 2))
        flip = torch.rand(count, self.patches, generator=rng) < (0.5 if training else 0.0)
        return torch.cat(levels, 1), flip

    def tiles(self, boxes: Tensor) -> Tensor:
        """The cells before they were enlarged."""
        return Grid(self.options.model_copy(update={"ratio": 1.0})).boxes(torch.ones(1, 2), Generator(), False)[0][0]


class SamplingOptions(PatchOptions):
    """The random patches."""

    patches: int = Field(9, ge=1, le=400, description="patches of an image")
    scale: Annotated[tuple[Share, Share], AfterValidator(ascending)] = Field(
        (0.08, 1.0), description="area share of a patch"
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
