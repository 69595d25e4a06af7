"""A backbone and a head of your own, evaluated on the same episodes as the recipe's: plain modules, no package.

Run it as `python examples/own_parts.py`.
"""

import torch
from torch import nn

import fewshot_cli


class Head(nn.Module):
    """Cosine to the nearest support image: maps [E,way,shot,d,h,w] and [E,q,d,h,w] → logits [E,q,way]."""

    def forward(self, support: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        shots, queries = (nn.functional.normalize(x.mean((-2, -1)), dim=-1) for x in (support, query))
        return torch.einsum("ewsd,eqd->eqws", shots, queries).amax(-1)


backbone = nn.Sequential(nn.Conv2d(3, 32, 5, stride=2), nn.ReLU(), nn.MaxPool2d(4))  # images [N,3,H,W] → maps [N,d,h,w]
ours, theirs = fewshot_cli.evaluate("glyphs_5w1s", head=Head()), fewshot_cli.evaluate("glyphs_5w1s")
print(ours, theirs, fewshot_cli.compare(ours, theirs), sep="\n")
print(fewshot_cli.evaluate("glyphs_5w1s", backbone=backbone, head=Head()))
