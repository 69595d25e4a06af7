"""Feature map reconstruction networks (FRN; Wertheimer, Tang and Hariharan, CVPR 2021): ridge regression as
similarity.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from fewshot_cli.contracts import Head, Options, Solver


class FRNOptions(Options):
    """How features are scaled before they are reconstructed."""

    normalise: bool = Field(
        True, description="divide features by √d; the paper does so for ResNet-12 and not for Conv-4"
    )


class FRN(Head[FRNOptions]):
    """Logit = −γ · mean over positions of ‖Q̄ − Q‖², with Q̄ the query's map rebuilt from the class's positions.

    Q̄ = ρ Q Sᵀ(SSᵀ + λI)⁻¹S (eq. 8), S being all k·r support positions of the class in d channels, λ = k·r/d · exp(α)
    and ρ = exp(β); α, β and the temperature γ are learned and start at 0, 0 and 1. The smaller of the Gram matrices SSᵀ
    and SᵀS (eq. 10) is solved. Its auxiliary loss, which keeps classes orthogonal, is not part of a head's output and
    is left out.
    """

    floor = 1e-6  # added to λ, as in the public code

    def __init__(self, options: FRNOptions | None = None, *, channels: int, solver: Solver | None = None) -> None:
        super().__init__(options, channels=channels, solver=solver)
        self.alpha = nn.Parameter(torch.zeros(()))
        self.beta = nn.Parameter(torch.zeros(()))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """support [E,way,shot,d,h,w], query [E,q,d,h,w] → [E,q,way]."""
        rows = support.flatten(4).mT.flatten(2, 3)  # [E, way, k·r, d]
        columns = query.flatten(3).transpose(1, 2).flatten(2)  # [E, d, q·r]
        count, d = rows.shape[2:]
        if self.options.normalise:
            rows, columns = rows / d**0.5, columns / d**0.5
        ridge, rho = count / d * self.alpha.exp() + self.floor, self.beta.exp()
        eye = torch.eye(min(count, d), dtype=rows.dtype, device=rows.device)
        if count <= d:
            inner = (rows.flatten(1, 2) @ columns).unflatten(1, rows.shape[1:3])  # [E, way, k·r, q·r]
            weights = torch.linalg.solve(rows @ rows.mT + ridge * eye, inner)
            # Q̄ = ρ Wᵀ S, so ‖Q̄‖² = ρ² W·SSᵀW with SSᵀW = inner − λW, and Q·Q̄ = ρ W·inner: Q̄ itself is never made
            square = rho.square() * (weights * (inner - ridge * weights)).sum(2)
            error = square - 2 * rho * (weights * inner).sum(2) + columns.square().sum(1)[:, None]
        else:
            # Q̄ = ρ (SᵀS + λI)⁻¹ SᵀS Q = ρ Q − ρ λ (SᵀS + λI)⁻¹ Q
            columns = columns[:, None]
            rest = torch.linalg.solve(rows.mT @ rows + ridge * eye, columns)  # [E, way, d, q·r]
            error = ((rho - 1) * columns - rho * ridge * rest).square().sum(2)
        return -self.scale * error.unflatten(2, (query.shape[1], -1)).mean(-1).mT

    def elements(self, way: int, shot: int, query: int, positions: int) -> int:
        """Elements of an episode's weights or residuals; its Gram matrices are no more than its maps."""
        return way * way * query * positions * min(shot * positions, self.channels)
