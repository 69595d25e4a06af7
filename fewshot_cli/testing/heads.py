"""The contract of heads: checks that `fsl doctor --check head:NAME` and the tests run (see `parts`)."""

from typing import Any

import torch
from torch import Generator, Tensor

from fewshot_cli.config.parts import build_head, default_solver
from fewshot_cli.contracts import Head
from fewshot_cli.errors import DataError
from fewshot_cli.testing.case import require
from fewshot_cli.testing.trial import CHANNELS, NEAR, apart, saved_whole, trial


def _head(name: str) -> Head[Any]:
    torch.manual_seed(0)
    return build_head(trial("heads", name), CHANNELS, default_solver()).eval()


def _episodes(shot: int, ways: int = 4, queries: int = 7) -> tuple[Tensor, Tensor]:
    """Features of two episodes, none negative, as those of most backbones."""
    rng = Generator().manual_seed(1)
    support = torch.rand(2, ways, shot, CHANNELS, 3, 3, generator=rng)
    return support, torch.rand(2, queries, CHANNELS, 3, 3, generator=rng)


def head_shapes(name: str) -> str | None:
    """Logits are [E,q,way], finite, for one shot and several, for maps and for patches."""
    head = _head(name)
    for shot in (1, 3):
        logits = head(*_episodes(shot))
        require(logits.shape == (2, 7, 4), f"{shot} shots: logits are {list(logits.shape)}, not [2, 7, 4]")
        require(torch.isfinite(logits), f"{shot} shots: logits are not finite")
        patches = head(torch.rand(1, 2, shot, CHANNELS, 1, 5), torch.rand(1, 3, CHANNELS, 1, 5))
        require(patches.shape == (1, 3, 2), f"{shot} shots: logits of patches are {list(patches.shape)}, not [1, 3, 2]")
    return None


def head_batches(name: str) -> str | None:
    """An episode gets the same logits alone as in a batch, and a query the same whatever other queries there are."""
    head = _head(name)
    for shot in (1, 3):
        support, query = _episodes(shot)
        logits = head(support, query)
        alone = torch.cat([head(s[None], q[None]) for s, q in zip(support, query, strict=True)])
        require(apart(alone, logits) <= NEAR, f"{shot} shots: an episode's logits depend on its batch")
        few = head(support, query[:, :2])
        require(apart(few, logits[:, :2]) <= NEAR, f"{shot} shots: a query's logits depend on the other queries")
    return None


def head_order(name: str) -> str | None:
    """Classes in another order get the same logits in that order."""
    head, order = _head(name), torch.tensor([2, 0, 3, 1])
    if head.order_matters:
        return "says that the order of support images matters"
    for shot in (1, 3):
        support, query = _episodes(shot)
        change = apart(head(support[:, order], query), head(support, query)[:, :, order])
        require(change <= NEAR, f"{shot} shots: the order of classes changes logits by {change:.1e}")
    return None


def head_state(name: str) -> str | None:
    """Nothing is kept between calls, and inputs are not modified."""
    head, (support, query) = _head(name), _episodes(3)
    copies = support.clone(), query.clone()
    first = head(support, query)
    require(torch.equal(support, copies[0]) and torch.equal(query, copies[1]), "inputs were modified")
    head(support.flip(0), query.flip(1))
    require(torch.equal(head(support, query), first), "logits depend on an earlier call")
    return None


def head_gradients(name: str) -> str | None:
    """Gradients reach the query's features, the support's unless the head says otherwise, and every parameter."""
    head, (support, query) = _head(name), _episodes(3)
    leaves = support.requires_grad_(), query.requires_grad_()
    head(*leaves).square().sum().backward()
    for side, leaf in zip(("support", "query"), leaves, strict=True):
        if side == "query" or head.support_gradient:
            given = leaf.grad is not None and torch.isfinite(leaf.grad).all() and leaf.grad.abs().sum() > 0
            require(bool(given), f"no gradient reaches the features of the {side}")
    for key, parameter in head.named_parameters():
        require(parameter.grad is not None, f"no gradient reaches its parameter {key}")
    return None


def head_saved(name: str) -> str | None:
    """Another one with its state dict gives the same logits."""
    head = _head(name)
    if not head.state_dict():
        return "has no weights of its own"
    saved_whole(head, _head(name), lambda module: module(*_episodes(1)))
    return None


def head_honest(name: str) -> str | None:
    """Features that are NaN never become finite logits for their query."""
    head, (support, query) = _head(name), _episodes(1)
    query[0, 0] = torch.nan
    try:
        logits = head(support, query)
    except DataError:
        return None
    require(not torch.isfinite(logits[0, 0]).any(), "a query of NaN features gets finite logits")
    return None


def head_elements(name: str) -> str | None:
    """`elements` is a positive whole number that grows with classes, queries and positions."""
    head = _head(name)
    base = head.elements(5, 1, 15, 25)
    require(isinstance(base, int) and base > 0, f"elements is {base!r}, not a positive whole number")
    for larger in (head.elements(10, 1, 15, 25), head.elements(5, 1, 30, 25)):
        require(larger > base, "elements does not grow with classes and queries")
    require(head.elements(5, 1, 15, 100) >= base, "elements shrinks where maps are larger")
    return None
