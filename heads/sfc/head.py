"""The structured fully connected layer of DeepEMD (CVPR 2020, section 3.5): a learned support map for each class."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from fewshot_cli import transport
from fewshot_cli.contracts import Matching
from fewshot_cli.heads.emd import emd_logits, match
from fewshot_cli.heads.shared.batches import batches
from fewshot_cli.heads.shared.local import LocalHead, ReferenceOptions, nodes

NO_TREE = -2
PRESETS: dict[str, dict[str, Any]] = {
    "code": {"passes": 100, "iterations": None, "batch": 4, "lr": 100.0, "lr_training": 0.1},
    "paper": {"passes": None, "iterations": 100, "batch": 5, "lr": 100.0, "lr_training": 0.1},
}


def _learning(default: Any, **rules: Any) -> Any:
    """An option for learning the layer, which is not needed once it is learned."""
    return Field(default, json_schema_extra={"learning": True}, **rules)


class SFCOptions(ReferenceOptions):
    """How features are compared and the layer is fine-tuned; what is not given comes from the preset.

    `code`: 100 passes in batches of 4. `paper`: 100 iterations of batches of 5; its text gives no learning rate, so
    both have the code's.
    """

    weights: Literal["cross_reference", "equal"] = Field("cross_reference", description="node weights")
    gradient: Literal["flow", "full"] = _learning(
        "flow", description="of costs alone with the flow held fixed (code), or of node weights too"
    )
    preset: Literal["code", "paper"] = _learning("code", description="where the numbers below come from if not given")
    passes: int | None = _learning(None, ge=0, le=100_000, description="passes over the support set; code: 100")
    iterations: int | None = _learning(None, ge=0, le=10_000_000, description="steps, in place of passes; paper: 100")
    batch: int = _learning(4, ge=1, le=100_000, description="support images per step")
    lr: float = _learning(100.0, gt=0, le=1e6, description="learning rate of SGD in evaluation")
    lr_training: float = _learning(0.1, gt=0, le=1e6, description="the same while the backbone is meta-trained")
    momentum: float = _learning(0.9, ge=0, lt=1, description="momentum and dampening of SGD")

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        name = data.get("preset", "code")
        preset = dict(PRESETS.get(name, {})) if isinstance(name, str) else {}
        if data.get("passes") is not None or data.get("iterations") is not None:
            preset |= {"passes": None, "iterations": None}
        given = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if v is not None}
        return preset | given


class SFC(LocalHead[SFCOptions]):
    """EMD to one learned map per class, started at the mean support map and fine-tuned on the support set.

    Every episode of a batch is fine-tuned at the same time, each with its own layer; the layer is learned on detached
    features, so training the backbone through it sees the queries only.
    """

    needs_solver = True
    support_gradient = False
    order_matters = True
    trial = {"passes": 2}

    def match(self, left: Tensor, right: Tensor) -> Matching:
        """The optimal matching of two maps [d,h,w]: between two images there is no layer to learn."""
        return match(self.needed_solver, left, right, self.options)

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """support [E,way,shot,d,h,w], query [E,q,d,h,w] → [E,q,way]."""
        way, shot = support.shape[1:3]
        if shot == 1:  # the layer would only be fitted to the one image it is: the paper's 1-shot model has no SFC
            return self.score(nodes(support[:, :, 0], self.options.pyramid), query)
        images = support.transpose(1, 2).flatten(1, 2)  # [E, shot·way, d, h, w], classes alternating
        return self.score(self.learn(images, torch.arange(way).repeat(shot)), query)

    def score(self, layer: Tensor, query: Tensor) -> Tensor:
        """Logits [E,q,way] of maps [E,q,d,h,w] under the layer [E,way,n,d]."""
        return emd_logits(self.needed_solver, nodes(query, self.options.pyramid), layer, self.options)

    def deployed(self, maps: Tensor, labels: Tensor) -> nn.Module:
        """As `Deploys`: the layer with entropic matching, whose logits are near the exact ones."""
        from fewshot_cli.heads.sfc.deploy import EntropicMatching

        single = int(torch.bincount(labels).max()) == 1
        layer = nodes(maps, self.options.pyramid) if single else self.learn(maps[None], labels)[0]
        return EntropicMatching(layer, self.options)

    def learn(self, images: Tensor, labels: Tensor) -> Tensor:
        """The layer [E,way,n,d] learned on maps [E,P,d,h,w] with labels [P], the same in every episode.

        Classes may have different numbers of images.
        """
        o = self.options
        images, labels = nodes(images.detach(), o.pyramid), labels.to(images.device)
        start = torch.stack([images[:, labels == c].mean(1) for c in range(int(labels.max()) + 1)], 1)
        steps = list(batches(len(labels), o.batch, o.passes, o.iterations))
        lr = o.lr_training if self.training else o.lr
        if o.gradient == "flow" and start.device.type == "cpu":
            from fewshot_cli.heads.sfc import flow  # it compiles, which nobody else should wait for

            return flow.learn(
                self.needed_solver,
                start,
                images,
                labels,
                steps,
                lr=lr,
                momentum=o.momentum,
                temperature=o.temperature,
                norm=o.norm,
                weights=o.weights,
                floor=o.floor,
            )
        return self._learn(start, images, labels, steps, lr)

    def _learn(self, start: Tensor, images: Tensor, labels: Tensor, steps: list[Tensor], lr: float) -> Tensor:
        """The same by automatic differentiation, with the gradient that the options name, on any device."""
        layer = start.clone().requires_grad_()
        trees = None  # of the last solve of every image against every class, [E,P,way,n+m]
        momentum = self.options.momentum
        optimizer = torch.optim.SGD([layer], lr=lr, momentum=momentum, dampening=momentum)
        for pick in (step.to(start.device) for step in steps):
            with torch.enable_grad():
                basis = transport.Basis(None if trees is None else trees[:, pick].flatten(0, 2))
                logits = emd_logits(self.needed_solver, images[:, pick], layer, self.options, basis)
                target = labels[pick].expand(len(layer), -1)
                loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum") / len(pick)
            (layer.grad,) = torch.autograd.grad(loss, layer)
            optimizer.step()
            if basis.trees is not None:
                if trees is None:
                    shape = (*images.shape[:2], layer.shape[1], basis.trees.shape[1])
                    trees = basis.trees.new_full(shape, NO_TREE)
                trees[:, pick] = basis.trees.unflatten(0, (len(layer), len(pick), -1))
        return layer.detach()
