"""Two images and how they match, as a figure shows it: strongest flows, node weights, one image made of the other."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.contracts import Matching
from fewshot_cli.features.crops import cut

FOG = 0.8  # the grey that light parts of an image fade to, of 0 to 1
DEEPEST = 0.8  # how much of it lies over a node without weight: what is there can still be recognised
SMOOTH = 0.45  # of a node's side: how far its weight reaches into its neighbours

Verdict = Literal["right", "wrong", "truth"]


class Flow(NamedTuple):
    """What flows from a node of the left image to one of the right, as a share of the whole mass."""

    left: int
    right: int
    share: float


@dataclass(frozen=True)
class Panel:
    """A query (left) and a support image (right), [3,H,W] in [0,1] each of its own size, and how they match.

    Where their nodes lie and what the right ones' features were taken from are boxes [n,4] (left, top, width, height)
    as shares of the image. `captions` stand below the images; `verdict` says of the right image whether its class was
    predicted, rightly or wrongly, or would have been right; None when nothing is known or to be said.
    """

    left: Tensor
    right: Tensor
    left_places: Tensor
    right_places: Tensor
    right_boxes: Tensor
    matching: Matching
    captions: tuple[str, str] = ("", "")
    verdict: Verdict | None = None

    def flows(self, most: int | None = None) -> list[Flow]:
        """All flows above zero, or so many of the strongest, strongest first."""
        flow = self.matching.flow.double().cpu()
        order = flow.flatten().argsort(descending=True, stable=True)[:most].tolist()
        cells = [(*divmod(at, flow.shape[1]), float(flow.flatten()[at] / flow.sum())) for at in order]
        return [Flow(*cell) for cell in cells if cell[2] > 0]

    def heaviest(self) -> float:
        """The largest weight of a node of either image, as a multiple of its image's mean weight."""
        return max(float(w.max() / w.mean()) for w in (self.matching.supply, self.matching.demand))

    def fogged(self, full: float) -> tuple[Tensor, Tensor]:
        """Both images, foggier the less weight their nodes have; clear from `full` times the mean weight on."""
        left = fog(self.left, self.left_places, self.matching.supply, full)
        return left, fog(self.right, self.right_places, self.matching.demand, full)

    def rebuilt(self) -> Tensor:
        """The left image of the right one's patches, of those that take most of its nodes' mass: [3,H,W].

        Smaller nodes are drawn over larger ones.
        """
        out, (high, wide) = torch.zeros_like(self.left), self.left.shape[1:]
        best, scale = self.matching.flow.argmax(1), torch.tensor([wide, high, wide, high])
        edges = torch.cat([self.left_places[:, :2], self.left_places[:, :2] + self.left_places[:, 2:]], 1)
        corners = edges.mul(scale).round().int().tolist()
        for i in self.left_places[:, 2:].prod(1).argsort(dim=0, descending=True, stable=True).tolist():
            x0, y0, x1, y1 = corners[i]
            size = max(1, y1 - y0), max(1, x1 - x0)
            patch = cut(self.right[None], self.right_boxes[best[i]][None], torch.tensor([False]), max(size))
            patch = F.interpolate(patch, size, mode="bilinear")[0]
            out[:, y0:y1, x0:x1] = patch[:, : y1 - y0, : x1 - x0]
        return out


def smooth(places: Tensor, weights: Tensor, high: int, wide: int) -> Tensor:
    """Weights [n] of boxes [n,4] as a smooth map [high,wide], a mean of one where the boxes share the image evenly.

    Each point has the mean weight of the nodes around it, those near the middle of a small box above all.
    """
    places, weights = places.double().cpu(), weights.double().cpu() / weights.double().cpu().mean()
    y, x = ((torch.arange(count, dtype=torch.float64) + 0.5) / count for count in (high, wide))
    centre, reach = places[:, :2] + places[:, 2:] / 2, SMOOTH * places[:, 2:]
    across = ((x[None] - centre[:, :1]) / reach[:, :1]).square()[:, None]
    down = ((y[None] - centre[:, 1:]) / reach[:, 1:]).square()[:, :, None]
    near = (-(across + down) / 2).softmax(0)  # which stays a mean far from all of them
    return torch.einsum("nhw,n->hw", near, weights)


def fog(image: Tensor, places: Tensor, weights: Tensor, full: float) -> Tensor:
    """An image [3,H,W] under fog, the thicker the smaller the weight there, and gone from `full` times the mean on."""
    weight = smooth(places, weights, *(min(64, side) for side in image.shape[1:]))
    weight = F.interpolate(weight[None, None], tuple(image.shape[1:]), mode="bilinear")[0, 0]
    return fade(image, weight / full)


def fade(image: Tensor, share: Tensor) -> Tensor:
    """Colours [3,H,W] under the fog that a share [H,W] of the full weight leaves."""
    thick = DEEPEST * (1 - share.clamp(0, 1)).to(image.dtype)
    return image * (1 - thick) + FOG * thick
