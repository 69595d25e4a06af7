"""All interfaces on one page: what a solver, backbone, head, classifier, extractor and dataset builder must be.

Shapes: E episodes, B problems, n and m nodes, d channels, h×w positions. A part is a class that names its frozen
pydantic options in brackets, as in `class Mine(Solver[MyOptions])`; it is registered by an entry point in the group
`fewshot_cli.<kind>` and constructed by the toolkit.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar, get_args, runtime_checkable

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from fewshot_cli.errors import DataError


class Options(BaseModel):
    """Base of every part's options: the recipe's schema, its error messages and its documentation in one."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


OptionsT = TypeVar("OptionsT", bound=Options)


class Part(Generic[OptionsT]):
    """What all parts have in common: validated `options`, and whether the part can run here.

    `Options` is the class of the options, taken from the brackets of the base class. `trial` are options with which
    the contract suite runs the part: those of a small version where the default is slow.
    """

    Options: type[OptionsT] = Options  # type: ignore[assignment]  # of a part that has none
    trial: ClassVar[dict[str, Any]] = {}
    options: OptionsT

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if "Options" in cls.__dict__:
            return
        for base in cls.__dict__.get("__orig_bases__", ()):
            for given in get_args(base):
                if isinstance(given, type) and issubclass(given, Options):
                    cls.Options = given  # type: ignore[assignment]  # bound by the brackets

    def __init__(self, options: OptionsT | None = None) -> None:
        self.options = self.Options() if options is None else options

    @classmethod
    def unavailable_reason(cls) -> str | None:
        """None when the part can run here, else one sentence that says what is missing and how to get it."""
        return None


@dataclass(frozen=True)
class Plan:
    """What a solver returns for B transport problems.

    `flow` [B,n,m]; `supply_price` [B,n] and `demand_price` [B,m] are optimal dual prices, or None when the solver has
    none; `iterations` [B] int64; `converged` [B] bool; `basis` [B,n+m] int16, of a solver that can start from it, or
    None. All on the device of the cost.

    Filled in by `transport.solve` for a `certified` solver: `certified_gap` [B], how far the plan's value is above a
    lower bound on the optimum, relative to mass · largest |cost|; and `value` [B], what the flow costs.
    """

    flow: Tensor
    supply_price: Tensor | None
    demand_price: Tensor | None
    iterations: Tensor
    converged: Tensor
    basis: Tensor | None = None
    certified_gap: Tensor | None = None
    value: Tensor | None = None


@dataclass(frozen=True)
class Tolerance:
    """How far off a solver may be: `value` relative to mass · largest |cost|, `marginal` relative to the mass,
    `gradient` relative to the largest component. `deterministic` means a problem's answer does not depend on its batch;
    problems of more than `largest` cells would take it too long.
    """

    value: float
    marginal: float
    gradient: float
    deterministic: bool = True
    largest: int = 1 << 30


EXACT, APPROXIMATE = Tolerance(1e-8, 1e-8, 1e-4), Tolerance(0.05, 1e-3, 0.05, False)


class Solver(Part[OptionsT], ABC):
    """Solves min <C,X> subject to X1 = supply, Xᵀ1 = demand, X ≥ 0 for a batch; no state between calls.

    `devices`: device types whose tensors it takes. `exact`: the flow is optimal up to rounding. `gradient`: `envelope`
    when `transport.value` differentiates from flow and prices, `autograd` when the flow itself carries the graph.
    `warm_start`: `solve` also takes `basis`, that of an earlier plan for nearly the same problems (see
    `transport.Basis`). `complexity`: time of one n×n problem in the literature, as a formula, and its exponent in n
    where it is a power. `tolerance`: what the contract suite lets it be off by (default: by whether it is exact).
    `ladder`: settings of its options from quick to accurate, for `fsl profile --ladder`.
    """

    devices: tuple[str, ...] = ("cpu",)
    exact: ClassVar[bool] = False
    gradient: ClassVar[Literal["envelope", "autograd"]] = "envelope"
    warm_start: ClassVar[bool] = False
    complexity: ClassVar[tuple[str, float | None]] = ("", None)
    tolerance: ClassVar[Tolerance | None] = None
    ladder: ClassVar[tuple[dict[str, Any], ...]] = ()

    @classmethod
    def reference_rank(cls, n: int, m: int) -> int | None:
        """Its rank among the solvers that others are compared with on n×m problems, lowest first; None if it is not
        one of them.
        """
        return None

    @property
    def certified(self) -> bool:
        """Whether a plan counts as converged only with a proof, from its flow and prices, that it is optimal within the
        tolerance.
        """
        return self.exact

    @abstractmethod
    def solve(self, cost: Tensor, supply: Tensor, demand: Tensor) -> Plan:
        """Solve cost [B,n,m], supply [B,n], demand [B,m]; inputs are already checked and must not be modified.

        A solver that cannot handle a kind of problem refuses it with a `DataError`.
        """


class WarmStarts(Protocol):
    """A solver that can start from the basis of an earlier plan for nearly the same problems."""

    def solve(self, cost: Tensor, supply: Tensor, demand: Tensor, *, basis: Tensor | None = None) -> Plan:
        """`Solver.solve` from the basis [B,n+m] of an earlier plan."""


class SolverUser:
    """A part that may pose transport problems: it is constructed with a solver if its class `needs_solver`."""

    needs_solver: ClassVar[bool] = False
    solver: Solver[Any] | None

    @property
    def needed_solver(self) -> Solver[Any]:
        """The solver of a part that needs one. Raises `RuntimeError` where it was constructed without."""
        if self.solver is None:
            raise RuntimeError(f"{type(self).__name__} was constructed without a solver, which it needs")
        return self.solver


class Step(NamedTuple):
    """A convolution with its batch norm in somebody else's checkpoint: their modules' names there and in our backbone.

    `size` is the kernel's side; `inputs` and `outputs` are places in the layout's list of widths, −1 for the image.
    """

    conv: str
    norm: str
    our_conv: str
    our_norm: str
    size: int
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Layout:
    """One way of naming a backbone's tensors, by which `fsl import` reads other people's checkpoints.

    `steps` are all its convolutions, the one that sees the image first; `options` makes the backbone's options of the
    widths that the tensors have.
    """

    title: str
    steps: tuple[Step, ...]
    options: Callable[[list[int]], dict[str, Any]]

    @property
    def sign(self) -> str:
        """The weight of the convolution that sees the image, by which a layout is recognised."""
        return f"{self.steps[0].conv}.weight"


@dataclass(frozen=True)
class HeadLayout:
    """One way of naming a head's tensors, by which `fsl import` reads them beside a backbone's.

    `names` maps the names in somebody else's checkpoint to ours.
    """

    title: str
    names: Mapping[str, str]


@dataclass(frozen=True)
class OwnWeights:
    """Weights that a backbone brings: tensors by the backbone's own names, where they are from and by what licence, and
    the data that they have seen, such as `imagenet-1k`.
    """

    tensors: Mapping[str, Tensor]
    source: str
    licence: str
    saw: tuple[str, ...]


class Backbone(nn.Module, Part[OptionsT], ABC):
    """Images [N,3,H,W] → maps [N,d,h,w]; `channels` is d.

    `layouts` are the names that its tensors have in checkpoints which `fsl import` understands. A `pretrained` backbone
    can bring weights of its own: where it does, no recipe needs to name any, and what a recipe does not say of its
    images (size, mean, …) is as these weights want it. One that `takes_features` is for datasets that hold features in
    place of images, and has their channels.
    """

    layouts: ClassVar[tuple[Layout, ...]] = ()
    pretrained: ClassVar[bool] = False
    takes_features: ClassVar[bool] = False
    channels: int

    def __init__(self, options: OptionsT | None = None) -> None:
        nn.Module.__init__(self)
        Part.__init__(self, options)

    @classmethod
    def brings_weights(cls, options: OptionsT) -> bool:
        """Whether it brings weights with these options."""
        return False

    @classmethod
    def lacking(cls, options: OptionsT) -> str | None:
        """None when the weights that it brings can be had here, else one sentence that says how to get them."""
        return None

    @classmethod
    def preprocessing(cls, options: OptionsT) -> dict[str, Any]:
        """Keys of a recipe's `image` with the values that its weights want, where the part knows them.

        Raises `RecipeError` where the options name nothing that there is.
        """
        return {}

    def own_weights(self) -> OwnWeights:
        """The weights that it brings. Raises `DataError` where there are none for its options, or not here."""
        raise DataError(f"backbone {type(self).__name__} brings no weights of its own; give others")

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Maps [N,d,h,w] of images [N,3,H,W]."""


class Head(nn.Module, SolverUser, Part[OptionsT], ABC):
    """support [E,way,shot,d,h,w], query [E,q,d,h,w] → logits [E,q,way], for a whole batch of episodes at once.

    Patch features are maps with h = 1. Transport problems are posed with the episode as the slowest index, so that a
    solver's report can be split by episode. Weights of its own are parameters; there is no state between calls.

    A head that learns on the support set may declare two more things. `support_gradient` is False when it learns on
    detached features, so that training sees the queries only. `order_matters` is True when its steps take the support
    images in their order, so that the same classes in another order get slightly different logits.

    `layouts` are the names that its tensors have in checkpoints which `fsl import` understands.
    """

    layouts: ClassVar[tuple[HeadLayout, ...]] = ()
    support_gradient: bool = True
    order_matters: bool = False

    def __init__(self, options: OptionsT | None = None, *, channels: int, solver: "Solver[Any] | None" = None) -> None:
        nn.Module.__init__(self)
        Part.__init__(self, options)
        self.channels = channels
        self.solver = solver

    @abstractmethod
    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """Logits [E,q,way]; larger means more likely."""

    def elements(self, way: int, shot: int, query: int, positions: int) -> int:
        """Elements of the largest tensor an episode needs, which decides how many episodes go into one call.

        `query` is a class's queries, `positions` h·w; here a cost matrix for each query and class.
        """
        return way * way * query * positions * positions


@runtime_checkable
class Learns(Protocol):
    """A head with a layer that is learned on support images: `classify` and `finetune-sfc` use it."""

    def learn(self, images: Tensor, labels: Tensor, /) -> Tensor:
        """The layer [E,way,…] of maps [E,P,d,h,w] with labels [P]; classes may have different numbers of images."""

    def score(self, layer: Tensor, query: Tensor) -> Tensor:
        """Logits [E,q,way] of maps [E,q,d,h,w] under a layer."""


@runtime_checkable
class Deploys(Protocol):
    """A head that with its examples is a module of plain tensor operations, without a solver: `export` writes it."""

    def deployed(self, maps: Tensor, labels: Tensor) -> nn.Module:
        """The module maps [N,d,h,w] → logits [N,way] of examples' maps [P,d,h,w] with labels [P]."""


@runtime_checkable
class Poses(Protocol):
    """A head whose logits come from one transport problem for each query and class: solvers are timed on these."""

    def pose(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cost [B,n,m], supply [B,n] and demand [B,m] of maps [E,way,shot,d,h,w] and [E,q,d,h,w]; B = E·q·way."""


@runtime_checkable
class Matches(Protocol):
    """A head whose similarity of two images is a flow between their nodes: `match` draws it."""

    def match(self, left: Tensor, right: Tensor) -> "Matching":
        """How two maps [d,h,w] match."""


@dataclass(frozen=True)
class Matching:
    """How the nodes of two images match: `flow` [n,m], weights `supply` [n] and `demand` [m], `cosine` [n,m], and
    their similarity Σ cosine·flow / mass.

    `places` [n,4] are the boxes (left, top, width, height) of an image's nodes, as shares of the map.
    """

    flow: Tensor
    supply: Tensor
    demand: Tensor
    cosine: Tensor
    similarity: float
    places: Tensor


@runtime_checkable
class Aligns(Protocol):
    """A head that aligns one image's map with another's: `match --maps` draws it."""

    def align(self, left: Tensor, right: Tensor) -> "Alignment":
        """How it aligns a support image's map [d,h,w] with a query's."""


class Stage(NamedTuple):
    """A support image's map [d,h,w] at one stage of its alignment with a query's.

    `name` is the stage's key in results, `title` stands over its heat map. With a `correlation` title, the correlation
    of its positions with the query's is drawn too.
    """

    name: str
    title: str
    map: Tensor
    correlation: str | None = None


@dataclass(frozen=True)
class Alignment:
    """A support image's map aligned with a query's map `query` [d,h,w]: its stages in order, first the map itself.

    `weights` [HW,HW] are those of the support's positions for each position of the query, None without them.
    """

    query: Tensor
    stages: tuple[Stage, ...]
    weights: Tensor | None


class Classifier(nn.Module, SolverUser, Part[OptionsT], ABC):
    """maps [N,d,h,w] → logits [N,classes], for ordinary supervised training.

    A classifier that `needs_solver` is constructed with the recipe's solver.
    """

    def __init__(
        self,
        options: OptionsT | None = None,
        *,
        channels: int,
        classes: int,
        solver: "Solver[Any] | None" = None,
    ) -> None:
        nn.Module.__init__(self)
        Part.__init__(self, options)
        self.solver = solver

    def multiply_adds(self, positions: int) -> int:
        """Multiply-adds of scoring one map of so many positions, without the solver's; here those of linear layers."""
        return sum(m.weight.numel() for m in self.modules() if isinstance(m, nn.Linear))


@runtime_checkable
class Proxied(Protocol):
    """A classifier that represents a class by several proxies and distributes an image's features over them: `match`
    draws them.
    """

    def matched(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The flow [N,classes,HW,M] of maps [N,d,h,w] to the proxies, and what each proxy adds to the class's logit
        [N,classes,M].
        """


class Extractor(Part[OptionsT]):
    """How an image becomes local features: the positions of its map, or the pooled features of several patches of it.

    `patches` is the number of patches, 0 for the map; `random` means that they are random in evaluation too.
    """

    patches: int = 0
    random: ClassVar[bool] = False

    def side(self, size: int, longest: int) -> int:
        """Side of the images that training cuts patches from, for a network's input of `size` and images whose
        longest side is `longest`.
        """
        return min(2 * size, longest)

    def boxes(self, sizes: Tensor, rng: torch.Generator, training: bool) -> tuple[Tensor, Tensor]:
        """Patches of images with original sizes [N,2] (h, w): boxes [N,patches,4] (left, top, width, height) as
        shares of the image, and whether each is mirrored [N,patches] bool.
        """
        raise NotImplementedError

    def tiles(self, boxes: Tensor) -> Tensor:
        """Where a figure draws the patches [patches,4] of one image: on their boxes, unless these overlap by
        design.
        """
        return boxes


class ImageSink(Protocol):
    """Where a dataset builder puts its images.

    `target` is the folder that will become the store, `info` what else its index records; messages name `where` before
    an image. `skipped` has the files that the builder left out, by reason. With `skip_bad`, images that do not decode,
    or hold more than `max_pixels`, are left out and reported; else all of them are told at the end.
    """

    target: Path
    info: dict[str, Any]
    where: str
    skipped: dict[str, list[str]]
    skip_bad: bool
    max_pixels: int

    def add(
        self, split: str, cls: str, image: bytes | np.ndarray, name: str, box: tuple[int, ...] | None = None
    ) -> None:
        """Add one image, encoded or as uint8 pixels [H,W,3], or features [d,h,w] as float32; splits and classes arrive
        one after the other.

        `box` is (left, top, right, bottom) in pixels; `name` identifies the image in messages.
        """

    def count(self, split: str) -> int:
        """How many images of a split were added so far."""

    def longest_side(self) -> int:
        """The longest side of all images added so far, in pixels; 0 when there are none."""


class DatasetBuilder(Part[OptionsT], ABC):
    """Turns a public archive or folder into one packed store.

    `Options` are those of `fsl prepare NAME --set key=value`. `source` says in one line what `--from` takes; `urls`
    maps file names to (address, SHA-256, `md5:…` or None) for the download when no source is given; `embedded` builders
    need neither and are built on first use; `sha256` is the hash of the store made from the complete public data, where
    it is known: the report says whether the store matches it. `within` are larger collections that hold its images or
    classes: weights that have seen one of them have seen what is tested.
    """

    source: ClassVar[str] = ""
    urls: ClassVar[dict[str, tuple[str, str | None]]] = {}
    embedded: ClassVar[bool] = False
    licence: ClassVar[str] = ""
    within: ClassVar[tuple[str, ...]] = ()
    sha256: str | None = None

    @abstractmethod
    def build(self, sources: list[Path], writer: ImageSink) -> None:
        """Write every image with `writer.add`. Raises `DataError` when a source is not what it should be."""
