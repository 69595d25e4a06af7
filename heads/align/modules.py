"""The three modules of long-short-range spatial alignment: foreground enhancement, correspondence, offsets."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot_cli import transport
from fewshot_cli.contracts import Solver, SolverUser
from fewshot_cli.heads.align.deformable import DeformableConv2d
from fewshot_cli.heads.align.options import AlignOptions, Deform

TINY = 1e-12


class Foreground(nn.Module):
    """FOE: a block φ that reads where the object is, and a mask from similarity to the pooled feature (eq. 2, 3).

    maps [N,d,h,w] → the same shape.
    """

    def __init__(self, channels: int, version: Deform, layers: int, residual: bool, mask: bool) -> None:
        super().__init__()
        self.residual, self.mask = residual, mask
        self.block = nn.Sequential()
        if version != "none":
            for _ in range(layers):
                convolution = DeformableConv2d(channels, channels, version=version)
                self.block.append(nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)))

    def forward(self, maps: Tensor) -> Tensor:
        """As the class says."""
        out = self.block(maps)
        if self.residual and len(self.block):
            out = out + maps
        return out * self.attention(out)[:, None] if self.mask else out

    @staticmethod
    def attention(maps: Tensor) -> Tensor:
        """The mask [N,h,w] in [0,1]: cosine of each position with the mean over positions, rescaled from [−1,1]."""
        pooled = maps.mean((2, 3), keepdim=True)
        return (F.cosine_similarity(maps, pooled, dim=1, eps=TINY) + 1) / 2


class Correspondence(nn.Module, SolverUser):
    """LSC: weights of the support's positions for each position of a query (eq. 4, 5).

    `keys` embeds maps by g: 1×1 convolution, batch norm, ReLU, 1×1 convolution, shared by both sides.
    """

    def __init__(self, channels: int, options: AlignOptions, solver: Solver | None) -> None:
        super().__init__()
        self.options, self.solver = options, solver
        self.width = (options.embed_channels or max(1, channels // 2)) if options.embed else channels
        self.embed = nn.Sequential()
        if options.embed:
            self.embed = nn.Sequential(
                nn.Conv2d(channels, self.width, 1, bias=False),
                nn.BatchNorm2d(self.width),
                nn.ReLU(inplace=True),
                nn.Conv2d(self.width, self.width, 1),
            )
        start = torch.tensor(float(options.temperature)).log()
        self.temperature = nn.Parameter(start) if options.learn_temperature else None  # its logarithm

    def keys(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Embedded maps of support [E,way,shot,d,h,w] and query [E,q,d,h,w], of `width` channels."""
        flat = self.embed(torch.cat([support.flatten(0, 2), query.flatten(0, 1)]))
        count = support.shape[:3].numel()
        return flat[:count].unflatten(0, support.shape[:3]), flat[count:].unflatten(0, query.shape[:2])

    def forward(self, query: Tensor, support: Tensor) -> Tensor:
        """Weights [P,HW,HW], rows of query positions, of query keys and support keys [P,c,h,w]."""
        correlation = cosines(query, support)
        if self.options.correspondence == "plan":
            return self._plan(correlation)
        tau = self.options.temperature if self.temperature is None else self.temperature.exp()
        return (correlation / tau).softmax(2 if self.options.softmax_over == "support" else 1)

    def _plan(self, correlation: Tensor) -> Tensor:
        cost = 1 - correlation
        n, m = cost.shape[1:]
        supply, demand = cost.new_full((len(cost), n), 1 / n), cost.new_full((len(cost), m), 1 / m)
        if self.needed_solver.gradient != "autograd":
            cost = cost.detach()
        transport.check(cost, supply, demand)
        return n * transport.solve(self.needed_solver, cost, supply, demand).flow


def cosines(query: Tensor, support: Tensor) -> Tensor:
    """Cosine [P,HW,HW] of every position of query with every one of support, both [P,c,h,w] (eq. 4)."""
    rows, columns = (F.normalize(x.flatten(2), dim=1, eps=TINY) for x in (query, support))
    return rows.mT @ columns


class Offsets(nn.Module):
    """SSM's predictor h: twice 3×3 convolution, batch norm and ReLU, a 3×3 convolution to two channels, tanh (eq. 7).

    Its first convolution, of support and query side by side, is the sum of `support` and `query`, so that the query's
    part is computed once for all classes. The rest maps that sum [P,c,h,w] to offsets [P,h,w,2], x before y, in halves
    of the map.
    """

    def __init__(self, channels: int, options: AlignOptions) -> None:
        super().__init__()
        width = options.offset_channels or min(channels, 128)
        self.scale, self.pixels = options.offset_scale, options.offset_pixels
        self.support = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.query = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(width)])
        self.middle = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.last = nn.Conv2d(width, 2, 3, padding=1)
        with torch.no_grad():  # drawn as the one convolution of both would be
            for half in (self.support, self.query):
                half.weight /= 2**0.5
        if options.offset_zero:
            for start in self.last.parameters():
                nn.init.zeros_(start)

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        x = F.relu(self.norms[1](self.middle(F.relu(self.norms[0](x)))))
        shift = self.last(x).tanh().permute(0, 2, 3, 1)
        if self.pixels is None:
            return self.scale * shift
        sides = shift.new_tensor([max(1, x.shape[3] - 1), max(1, x.shape[2] - 1)])
        return shift * (2 * self.pixels / sides)


def sample(maps: Tensor, offsets: Tensor) -> Tensor:
    """maps [P,d,h,w] read bilinearly at each position plus its offset [P,h,w,2]; outside is zero (eq. 8).

    The corners of the map are the corner positions at ±1, so that a zero offset is the identity.
    """
    h, w = maps.shape[2:]
    axes = [
        torch.linspace(-1, 1, n, dtype=maps.dtype, device=maps.device) if n > 1 else maps.new_zeros(1) for n in (h, w)
    ]
    y, x = torch.meshgrid(*axes, indexing="ij")
    return F.grid_sample(maps, torch.stack([x, y], -1) + offsets, align_corners=True)
