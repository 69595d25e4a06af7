"""Fine-tuning of DeepEMD's structured fully connected layer (CVPR 2020, section 3.5) on a CPU, flows held fixed.

With the flow x of a transport problem as a constant, dL/dcos_ij = dL/dlogit · T/n · x_ij, and x has at most n + m − 1
entries. A step of SGD thus adds to each node v_j of the layer a few of the images' nodes û_i (centred, of length one)
and a multiple of itself. All that a step needs are the products û_i·v_j, and these follow from the Gram matrix of the
û_i: channels are needed once before the first step and once after the last. Where images have far more nodes than there
are channels the layer itself is kept instead, with the same sparse update and a dense product per step.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fewshot_cli import transport
from fewshot_cli.contracts import Solver
from fewshot_cli.heads.sfc import kernel
from fewshot_cli.heads.sfc.kernel import KEPT, LANES, STRIP, multiply, scale, turn
from fewshot_cli.kernels.threads import over_batch

NO_TREE = -2
NODES_PER_CHANNEL = 6  # of all images together, above which the layer is kept rather than its products
ROOM, SOME = 20 << 20, 8  # bytes of cache, or episodes, that a thread works on in turn: more would push each other out
MOST = 1 << 30  # bytes that the episodes worked on together may take


def _spread(run: Callable[[int, int], None], episodes: int) -> None:
    """Call run(begin, end) on consecutive parts of range(episodes), one for each of PyTorch's threads."""
    over_batch(run, episodes, torch.get_num_threads(), least=1)


def learn(
    solver: Solver,
    start: Tensor,
    images: Tensor,
    labels: Tensor,
    orders: Sequence[Tensor],
    *,
    lr: float,
    momentum: float,
    temperature: float,
    norm: str,
    weights: str,
    floor: float,
) -> Tensor:
    """The layer [E,way,m,d] learned from `start` [E,way,m,d] on images [E,P,n,d] with labels [P], all on the CPU.

    `orders` names the images of each step; the loss is their mean cross-entropy. norm is "center" or "cosine",
    weights "cross_reference" or "equal" (floor applies to the first). What an episode learns depends neither on the
    others nor on the number of threads. Raises `DataError` when features, or what is learned from them, are NaN or
    infinite.
    """
    if not orders:
        return start.detach().clone()
    way, m, d = start.shape[1:]
    total = images.shape[1] * images.shape[2]
    gram = total <= NODES_PER_CHANNEL * d
    held = 4 * (total * total + 2 * way * m * total if gram else 2 * total * d)
    group = min(torch.get_num_threads() * max(SOME, ROOM // held), max(1, MOST // held))
    numbers = np.array([momentum, lr, temperature, floor if weights == "cross_reference" else 0.0, 1.0])
    (v, u), learned = (x.detach().float().numpy() for x in (start, images)), []
    for first in range(0, len(v), group):
        part = slice(first, min(first + group, len(v)))
        with transport.episodes(part.start, part.stop):
            learned.append(_learn(solver, v[part], u[part], labels, orders, numbers, norm, gram))
    return torch.from_numpy(np.concatenate(learned)).to(start.dtype)


def _learn(
    solver: Solver,
    start: np.ndarray,
    images: np.ndarray,
    labels: Tensor,
    orders: Sequence[Tensor],
    numbers: np.ndarray,
    norm: str,
    gram: bool,
) -> np.ndarray:
    """`learn` of episodes that are worked on together.

    PyTorch is not used here: where other processes run, each of its parallel operations waits for the slowest core.
    """
    (episodes, way, m, d), (count, n) = start.shape, images.shape[1:3]
    batch, nodes, total, single = max(len(pick) for pick in orders), way * m, count * n, np.float32
    padded, width = (-(-x // STRIP) * STRIP for x in (d, total if gram else d))
    layer, unit = np.zeros((episodes, nodes, padded), single), np.zeros((episodes, total, padded), single)
    v_mean, u_mean, lengths = (np.empty((episodes, x), single) for x in (nodes, total, total))
    squares, made = np.zeros((episodes, 3, nodes)), np.zeros((episodes, 2, nodes, total + 1 if gram else 0), single)
    if gram:
        state, table = np.zeros((episodes, nodes, width), single), np.zeros((episodes, total, width), single)
        strips, products = np.empty((0, 0, 0, LANES), single), state
        made[:, 0, :, total] = 1
    else:
        state, table, each = layer, unit, -(-n // LANES)
        strips = np.zeros((episodes, count * each, d, LANES), single)
        products = np.empty((episodes, nodes, batch * each * LANES), single)

    def begin(first: int, last: int) -> None:
        for e in range(first, last):
            v, u = (np.ascontiguousarray(x[e].reshape(-1, d)) for x in (start, images))
            scale(v, norm == "center", False, layer[e], v_mean[e], squares[e, 0])
            scale(u, norm == "center", True, unit[e], u_mean[e], lengths[e])
            squares[e, 0] **= 2
            if gram:
                transposed = np.zeros((-(-total // LANES), d, LANES), single)
                turn(unit[e], total, transposed)
                multiply(unit[e], transposed, np.arange(len(transposed)), True, table[e])
                multiply(layer[e], transposed, np.arange(len(transposed)), False, state[e])
            else:
                turn(unit[e], n, strips[e])

    def end(first: int, last: int) -> None:
        for e in range(first, last):
            transposed = np.ascontiguousarray(unit[e].reshape(total, -1, LANES).swapaxes(0, 1))
            added = np.empty((nodes, padded), single)
            multiply(made[e, 0], transposed, np.arange(len(transposed)), False, added)
            layer[e] = made[e, 0, :, total:] * layer[e] + added

    _spread(begin, episodes)
    size, room = episodes * batch * way, max(KEPT * batch * way * (n + m), batch * nodes * n)
    cost, left, right = torch.empty(size, m, n), torch.full((size, m), n / m), torch.ones(size, n)
    trees = np.full((episodes if solver.warm_start else 0, count, way, n + m), NO_TREE, np.int16)
    given, sane = torch.empty(size, n + m, dtype=torch.int16), np.ones(episodes, bool)
    before = (
        numbers,
        labels.numpy(),
        state,
        np.zeros_like(state),
        table,
        strips,
        products,
        squares,
        np.empty((episodes, nodes), single),
        lengths,
        u_mean,
        d * v_mean,
        cost.numpy(),
        left.numpy(),
        right.numpy(),
    )
    after = (
        np.empty((episodes, room), np.int32),
        np.empty((episodes, room), single),
        np.zeros((episodes, KEPT, nodes + 1), np.int64),
        np.zeros((episodes, KEPT, nodes)),
        np.zeros(episodes, np.int64),
        made,
        trees,
    )

    def advance(done: np.ndarray, coming: np.ndarray, flow: np.ndarray, bases: np.ndarray) -> None:
        def run(first: int, last: int) -> None:
            kernel.advance(first, last, done, coming, *before, flow, *after, bases, given.numpy(), sane)

        _spread(run, episodes)

    done, flow, bases = np.empty(0, np.int64), np.empty((0, m, n), single), np.empty((0, n + m), np.int16)
    for pick in orders:
        coming = pick.numpy()
        advance(done, coming, flow, bases)
        size = episodes * len(coming) * way
        problems = cost[:size], left[:size], right[:size]
        if not sane.all():
            transport.check(*problems)
        # a problem is posed with the layer's nodes as its rows, since products lie in memory by node of the layer
        basis = transport.Basis(given[:size] if solver.warm_start else None)
        flow = transport.solve(solver, *problems, basis).flow.detach().float().contiguous().numpy()
        bases = bases if basis.trees is None else basis.trees.numpy()
        numbers[-1] = 1.0 if len(done) == 0 else 1 - numbers[0]  # the first gradient is not dampened
        done = coming
    advance(done, np.empty(0, np.int64), flow, bases)
    if gram:
        _spread(end, episodes)
    return (layer[..., :d] + v_mean[..., None]).reshape(start.shape)
