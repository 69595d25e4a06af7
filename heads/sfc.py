"""The structured fully connected layer of DeepEMD (CVPR 2020, section 3.5): a learned support map for each class."""

import numpy as np
import torch
import torch.nn.functional as F
from fewshot_cli.heads.emd import EMDOptions, emd_logits, nodes
from pydantic import Field
from torch import Tensor

from fewshot_cli import transport
from fewshot_cli.contracts import Head

NO_TREE = -2


class SFCOptions(EMDOptions):
    """EMD's options and how the layer is fine-tuned; the defaults are those of the public code's evaluation.

    The paper's text says 100 iterations of batches of 5.
    """

    passes: int = Field(100, ge=0, le=100_000, description="passes over the support set")
    batch: int = Field(4, ge=1, le=100_000, description="support pictures a step")
    lr: float = Field(100.0, gt=0, le=1e6, description="learning rate of SGD")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum and dampening of SGD")


class SFC(Head):
    """EMD to one learned map a class, started at the mean support map and fine-tuned on the support set.

    Every episode of a batch is fine-tuned at the same time, each with its own layer; the layer is learned on detached
    features, so training the backbone through it sees the queries only.
    """

    Options = SFCOptions
    needs_solver = True

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """support [E,way,shot,d,h,w], query [E,q,d,h,w] → [E,q,way]."""
        way, shot = support.shape[1:3]
        start = nodes(support.mean(2))
        if shot == 1:  # the layer would only be fitted to the one picture it is: the paper's 1-shot model has no SFC
            return self.score(start, nodes(query))
        pictures = nodes(support.transpose(1, 2).flatten(1, 2))  # [E, shot·way, n, d], classes alternating
        return self.score(self.learn(start, pictures, torch.arange(way).repeat(shot)), nodes(query))

    def score(self, layer: Tensor, query: Tensor, basis: transport.Basis | None = None) -> Tensor:
        """Logits [E,q,way] of query nodes [E,q,n,d] under the layer [E,way,n,d]."""
        return emd_logits(self.solver, query, layer, self.options, basis)

    def learn(self, start: Tensor, pictures: Tensor, labels: Tensor) -> Tensor:
        """The layer [E,way,n,d] learned from `start` on pictures [E,P,n,d] with labels [P].

        The order of the pictures is the same in every episode and run, so a layer depends on its episode alone.
        """
        o = self.options
        layer = start.detach().clone().requires_grad_()
        pictures, labels = pictures.detach(), labels.to(start.device)
        trees = None  # of the last solve of every picture against every class, [E,P,way,n+m]
        optimizer = torch.optim.SGD([layer], lr=o.lr, momentum=o.momentum, dampening=o.momentum)
        for sweep in range(o.passes):
            order = _order(sweep, len(labels)).to(start.device)
            for pick in order.split(o.batch):
                with torch.enable_grad():
                    basis = transport.Basis(None if trees is None else trees[:, pick].flatten(0, 2))
                    logits = self.score(layer, pictures[:, pick], basis)
                    target = labels[pick].expand(len(layer), -1)
                    loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum") / len(pick)
                (layer.grad,) = torch.autograd.grad(loss, layer)
                optimizer.step()
                if basis.trees is not None:
                    if trees is None:
                        trees = basis.trees.new_full(
                            (*pictures.shape[:2], layer.shape[1], basis.trees.shape[1]), NO_TREE
                        )
                    trees[:, pick] = basis.trees.unflatten(0, (len(layer), len(pick), -1))
        return layer.detach()


def _order(sweep: int, count: int) -> Tensor:
    """A fixed permutation of range(count) for each sweep."""
    raw = np.random.Philox(key=0x5FC, counter=[0, sweep, count, 0]).random_raw(count)
    return torch.from_numpy(np.argsort(raw, kind="stable"))
