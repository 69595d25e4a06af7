"""The transport problems of an evaluation on a CPU, compiled; what is trained, or on a GPU, is posed by `local`."""

import torch
from torch import Tensor

from fewshot_cli.heads.shared.local import normal
from fewshot_cli.kernels.threads import over_batch

LEAST = 64  # images worth a thread


def compiled(query: Tensor, proto: Tensor, norm: str, floor: float) -> tuple[Tensor, Tensor, Tensor] | None:
    """Costs [E·q·way,n,m] and cross-reference weights [E·q·way,n] and [E·q·way,m] of query [E,q,n,d] and proto
    [E,way,m,d]; None where that is not for this code.
    """
    tensors = (query, proto)
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return None
    if any(x.device.type != "cpu" or x.dtype != torch.float32 for x in tensors) or not query.numel():
        return None
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return None
    try:
        from fewshot_cli.heads.shared import pose_kernel  # noqa: F401
    except ImportError:  # without Numba
        return None
    query, proto = query.detach(), proto.detach()
    (episodes, q, n, _), (way, m) = query.shape, proto.shape[1:3]
    if way * m <= q * n:
        cost, supply, demand = _posed(query, proto, norm, floor, n)
        return cost.flatten(0, 1), supply.flatten(0, 1), demand.flatten(0, 1)
    # the side with more nodes is only measured, the other one made directions of: both are alike but for their order
    cost, demand, supply = _posed(proto, query, norm, floor, n)
    cost = cost.view(episodes, way, q, m, n).permute(0, 2, 1, 4, 3)
    supply, demand = (x.view(episodes, way, q, -1).transpose(1, 2) for x in (supply, demand))
    return cost.flatten(0, 2).contiguous(), supply.flatten(0, 2).contiguous(), demand.flatten(0, 2).contiguous()


def _posed(query: Tensor, proto: Tensor, norm: str, floor: float, mass: int) -> tuple[Tensor, Tensor, Tensor]:
    """Costs [E·q,way,n,m] and weights [E·q,way,n] and [E·q,way,m] with a total of `mass`."""
    from fewshot_cli.heads.shared.pose_kernel import fill, measure

    (episodes, q, n, d), (way, m) = query.shape, proto.shape[1:3]
    images, classes = query.flatten(0, 1).contiguous(), proto.flatten(1, 2)
    inverse, mean = query.new_empty(len(images), n), query.new_empty(len(images), d)
    passed = [x.numpy() for x in (images, inverse, mean)]
    over_batch(lambda *part: measure(passed[0], norm == "center", *passed[1:], *part), len(images), 0, LEAST)
    rows = torch.cat([normal(proto, norm).flatten(1, 2), proto.mean(2)], 1)
    products = torch.bmm(images.view(episodes, q * n, d), rows.mT).view(len(images), n, -1)
    towards = torch.bmm(mean.view(episodes, q, d), classes.mT).flatten(0, 1)
    cost = query.new_empty(len(images), way, n, m)
    supply, demand = query.new_empty(len(images), way, n), query.new_empty(len(images), way, m)
    given = [x.numpy() for x in (products, towards, inverse)]
    made = [x.numpy() for x in (cost, supply, demand)]
    over_batch(lambda *part: fill(*given, floor, float(mass), *made, *part), len(images), 0, LEAST)
    return cost, supply, demand
