"""Meta DeepBDC (Xie et al., CVPR 2022): images as matrices of Brownian distance covariance between channels."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fewshot_cli.contracts import Head, Options, Solver


class DeepBDCOptions(Options):
    """Size of an image's matrix and what compares two of them."""

    channels: int | None = Field(
        None,
        ge=2,
        le=65536,
        description="rows of an image's matrix after a 1×1 convolution (paper: 256 of ResNet-18's "
        "512 on CUB; default: "
        "all channels without a convolution, as with ResNet-12's 640)",
    )
    similarity: Literal["by_shot", "inner", "squared_euclidean"] = Field(
        "by_shot", description="inner product at one shot and minus the squared distance at more (code), or always one"
    )


class DeepBDC(Head[DeepBDCOptions]):
    """Logit = <A, P> at one shot, −‖A − P‖² at more, with A the query's matrix and P the mean of the supports'.

    A is the upper triangle of the distances between channels (each a vector over the r positions), √(τ·‖x_i − x_j‖² +
    1e-5), less the means of row and column plus the mean of all. The learned τ starts at 1/2r, r being that of the maps
    at hand. The convolution is followed by batch norm and ReLU; it sees all images of a training step, as a
    backbone's does.
    """

    def __init__(self, options: DeepBDCOptions | None = None, *, channels: int, solver: Solver | None = None) -> None:
        super().__init__(options, channels=channels, solver=solver)
        self.size = self.options.channels or channels
        self.temperature = nn.Parameter(torch.zeros(()))  # log(2r·τ)
        self.reduce: nn.Module = nn.Identity()
        if self.size != channels:
            convolution = nn.Conv2d(channels, self.size, 1, bias=False)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            self.reduce = nn.Sequential(convolution, nn.BatchNorm2d(self.size), nn.ReLU())

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """support [E,way,shot,d,h,w], query [E,q,d,h,w] → [E,q,way]."""
        (episodes, way, shot), q = support.shape[:3], query.shape[1]
        images = self.represent(torch.cat([support.flatten(1, 2), query], 1).flatten(0, 1))
        support, query = images.unflatten(0, (episodes, -1)).split([way * shot, q], 1)
        prototype = support.unflatten(1, (way, shot)).mean(2)
        inner, o = query @ prototype.mT, self.options
        if o.similarity == "inner" or (o.similarity == "by_shot" and shot == 1):
            return inner
        return 2 * inner - query.square().sum(-1, keepdim=True) - prototype.square().sum(-1)[:, None]

    def represent(self, maps: Tensor) -> Tensor:
        """Upper triangles [N,c(c+1)/2], diagonal included, of the matrices of maps [N,d,h,w]."""
        x = self.reduce(maps).flatten(2)
        gram = x @ x.mT
        squares = gram.diagonal(dim1=1, dim2=2)
        between = (squares[:, :, None] + squares[:, None] - 2 * gram).clamp(min=0)
        distance = (between * (self.temperature.exp() / (2 * x.shape[2])) + 1e-5).sqrt()
        mean = distance.mean(1)  # of rows and of columns, the matrix being symmetric
        centred = distance - mean[:, :, None] - mean[:, None] + mean.mean(1)[:, None, None]
        above = torch.triu_indices(self.size, self.size, device=x.device)
        return centred[:, above[0], above[1]]

    def elements(self, way: int, shot: int, query: int, positions: int) -> int:
        """Elements of the matrices of an episode's images, of their maps after the convolution or of the logits."""
        return way * max((shot + query) * self.size * max(self.size, positions), way * query)
