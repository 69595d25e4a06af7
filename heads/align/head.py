"""Object-aware long-short-range spatial alignment (ACM Multimedia 2021): support maps are aligned with a query's before
they are compared.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fewshot_cli import transport
from fewshot_cli.contracts import Alignment, Head, Solver, Stage
from fewshot_cli.heads.align.modules import Correspondence, Foreground, Offsets, sample
from fewshot_cli.heads.align.options import AlignOptions
from fewshot_cli.runtime.device import free_memory


class Align(Head[AlignOptions]):
    """Logit = −scale · distance of a query's map and a class's map aligned with it, position by position.

    Both go through FOE. LSC rebuilds the support's map at every query position from all its positions (eq. 4-6); SSM
    reads the result at positions moved by offsets that are predicted from it and the query (eq. 7, 8). The scale is
    learned. `correspondence=plan` takes the recipe's solver: positions of both sides weigh the same, and a row of the
    plan, scaled to sum to one, replaces the softmax. It then uses every support position equally often, and an exact
    plan is piecewise constant in the correlations, so g gets no gradient; through `sinkhorn gradient=unrolled` it does.
    """

    needs_solver = True

    def __init__(self, options: AlignOptions | None = None, *, channels: int, solver: Solver | None = None) -> None:
        super().__init__(options, channels=channels, solver=solver)
        o = self.options
        if o.correspondence != "plan":
            self.solver = None
        self.foreground = Foreground(channels, o.deform, o.deform_layers, o.deform_residual, o.mask)
        self.correspondence, compared = None, channels
        if o.correspondence != "none":
            self.correspondence = Correspondence(channels, o, self.solver)
            if o.values == "embedded":
                compared = self.correspondence.width
            elif self.solver is not None and self.solver.gradient != "autograd":
                self.correspondence.embed.requires_grad_(False)  # it gets none, and several processes would wait for it
        self.offsets = Offsets(compared, o) if o.manipulate else None
        self.scale = nn.Parameter(torch.tensor(float(self.options.scale)))

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """support [E,way,shot,d,h,w], query [E,q,d,h,w] → [E,q,way]."""
        (episodes, way, shot), q = support.shape[:3], query.shape[1]
        maps = self.foreground(torch.cat([support.flatten(1, 2), query], 1).flatten(0, 1)).unflatten(0, (episodes, -1))
        support, query = maps[:, : way * shot].unflatten(1, (way, shot)), maps[:, way * shot :]
        if self.options.shots == "before" and shot > 1:
            support = support.mean(2, keepdim=True)
        keys = None
        if self.correspondence is not None:
            keys = self.correspondence.keys(support, query)
            if self.options.values == "embedded":
                support, query = keys
        elif self.offsets is None:
            return -self.scale * self._plain(support, query)
        pairs = _Pairs(self, support, query, keys)
        return -self.scale * pairs.distances().unflatten(0, (episodes, q, -1)).unflatten(2, (way, -1)).mean(3)

    def _plain(self, support: Tensor, query: Tensor) -> Tensor:
        """Distances [E,q,way] without any alignment: one product for all pairs."""
        if self.options.reduce == "gap":
            support, query = (x.flatten(-2).mean(-1, keepdim=True) for x in (support, query))
        rows, columns = query.flatten(2), support.flatten(3)
        means = columns.mean(2) if self.options.shots != "score" else None
        flat = columns.flatten(1, 2) if means is None else means
        centre = flat.mean(1, keepdim=True)  # the squares below would cancel digits of large features
        rows, flat = rows - centre, flat - centre
        squares = rows.square().sum(-1, keepdim=True) + flat.square().sum(-1)[:, None] - 2 * rows @ flat.mT
        out = self.reduced(squares.clamp(min=0), query.shape[3:].numel())
        return out.unflatten(2, support.shape[1:3]).mean(3) if means is None else out

    def reduced(self, squares: Tensor, positions: int) -> Tensor:
        """Distances of squares that are summed over channels and positions."""
        if self.options.distance == "euclidean":
            return (squares + 1e-12).sqrt() / (positions**0.5 if self.options.reduce == "mean" else 1)
        return squares / positions if self.options.reduce == "mean" else squares

    def elements(self, way: int, shot: int, query: int, positions: int) -> int:
        """Elements of an episode's aligned maps and correlations, which are made piece by piece."""
        pairs = way * way * query * (1 if self.options.shots == "before" else shot)
        if self.correspondence is None and self.offsets is None:
            return pairs
        return pairs * positions * max(positions, self.channels)

    def align(self, left: Tensor, right: Tensor) -> Alignment:
        """What the modules make of a query's map `left` [d,h,w] and a support image's `right` [d,h,w]."""
        maps = self.foreground(torch.stack([left, right]))
        query, support = maps[None, :1], maps[None, 1:, None]
        keys = self.correspondence.keys(support, query) if self.correspondence is not None else None
        if keys is not None and self.options.values == "embedded":
            support, query = keys
        pairs = _Pairs(self, support, query, keys)
        one = torch.zeros(1, dtype=torch.int64, device=left.device)
        carried = moved = pairs.carried(one)
        if self.offsets is not None:
            moved = sample(carried, self.offsets(self.offsets.support(carried) + self.offsets.query(query[0])))
        with transport.unrecorded():  # solved above
            weights = pairs.weights(one)[0] if keys is not None else None
        stages = (
            Stage("before", "support's map", support[0, 0, 0], "correlation, before"),
            Stage("after_lsc", "after LSC", carried[0], "correlation, after LSC"),
            Stage("after_ssm", "after SSM", moved[0]),
        )
        return Alignment(query[0, 0], stages, weights)


class _Pairs:
    """Every pair of a query and a support map of a batch of episodes, processed piece by piece.

    Pairs run over (E, q, way, shots). What a piece needs is read from the maps by `index_select`, whose gradient is
    summed in order, and in training it is computed again for the gradient when there are several pieces, so that no
    tensor grows with pairs times channels times positions. Only SSM's predictor, whose batch norm sees all pairs, is
    computed for all at once, in its few channels.
    """

    def __init__(self, head: Align, support: Tensor, query: Tensor, keys: tuple[Tensor, Tensor] | None) -> None:
        (episodes, way, shot), q = support.shape[:3], query.shape[1]
        self.head, self.options, self.shape, self.episodes = head, head.options, query.shape[-2:], episodes
        self.support, self.query = support.flatten(0, 2), query.flatten(0, 1)
        self.keys = None if keys is None else (keys[0].flatten(0, 2), keys[1].flatten(0, 1))
        self.together = shot if self.options.shots == "after" else 1  # pairs whose aligned maps are averaged
        device, each = query.device, way * shot
        self.of_query = torch.arange(episodes * q, device=device).repeat_interleave(each)
        first = torch.arange(episodes, device=device).repeat_interleave(q * each) * each
        self.of_support = first + torch.arange(each, device=device).repeat(episodes * q)
        self.count = len(self.of_query)

    def distances(self) -> Tensor:
        """Distances [E·q·way·shots that are scored one by one]."""
        parts = self.parts()
        predictor = self.head.offsets
        if predictor is None:
            return self.pieces(parts, lambda pick: self.compared(self.carried(pick), pick))
        of_queries = predictor.query(self.query)

        def first(carried: Tensor, pick: Tensor) -> Tensor:
            return predictor.support(carried) + of_queries.index_select(0, self.of_query[pick])

        if len(parts) == 1:
            carried = self.carried(parts[0])
            return self.compared(sample(carried, predictor(first(carried, parts[0]))), parts[0])
        offsets = predictor(self.pieces(parts, lambda pick: first(self.carried(pick), pick)))
        with transport.unrecorded():  # the same problems once more
            return self.pieces(
                parts, lambda pick: self.compared(sample(self.carried(pick), offsets.index_select(0, pick)), pick)
            )

    def parts(self) -> list[Tensor]:
        """Indices of the pairs of each piece; under a solver a piece that is not all lies within one episode."""
        most = self.options.chunk or self.fitting()
        order = torch.arange(self.count, device=self.query.device)
        if most >= self.count:
            return [order]
        whole = [order] if self.head.solver is None else order.unflatten(0, (self.episodes, -1))
        return [part for some in whole for part in some.split(max(1, most // self.together) * self.together)]

    def pieces(self, parts: list[Tensor], work: Callable[[Tensor], Tensor]) -> Tensor:
        """What `work` makes of all pairs, a piece at a time."""
        if len(parts) > 1 and torch.is_grad_enabled():
            return torch.cat([checkpoint(work, part, use_reentrant=False) for part in parts])
        return torch.cat([work(part) for part in parts])

    def fitting(self) -> int:
        """Pairs whose tensors, and their gradients, take at most a quarter of the free memory."""
        positions = self.shape.numel()
        one = 4 * positions * (4 * positions + 6 * self.query.shape[1])
        return max(1, free_memory(self.query.device) // 4 // one)

    def weights(self, pick: Tensor) -> Tensor:
        """LSC's weights [P,HW,HW] of the support's positions for each position of the query."""
        correspondence = self.head.correspondence
        if self.keys is None or correspondence is None:
            raise RuntimeError("there are no weights without LSC")
        query = self.keys[1].index_select(0, self.of_query[pick])
        support = self.keys[0].index_select(0, self.of_support[pick])
        if self.head.solver is None or len(pick) == self.count:
            return correspondence(query, support)
        episode = int(pick[0]) * self.episodes // self.count
        with transport.episodes(episode, episode + 1):
            return correspondence(query, support)

    def carried(self, pick: Tensor) -> Tensor:
        """Support maps [P,d,h,w] after LSC (eq. 6)."""
        values = self.support.index_select(0, self.of_support[pick])
        if self.keys is None:
            return values
        return (values.flatten(2) @ self.weights(pick).mT).unflatten(2, self.shape)

    def compared(self, aligned: Tensor, pick: Tensor) -> Tensor:
        """Distances of aligned maps [P,d,h,w], or of the means of those that belong together, and their queries."""
        mean = aligned.unflatten(0, (-1, self.together)).mean(1)
        apart = mean - self.query.index_select(0, self.of_query[pick[:: self.together]])
        if self.options.reduce == "gap":
            apart = apart.mean((2, 3), keepdim=True)
        return self.head.reduced(apart.square().sum((1, 2, 3)), self.shape.numel())
