"""Where the time of a training step goes: augmentation, backbone, head, transport, backward, optimiser."""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median, median_low
from time import perf_counter
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from fewshot_cli.config.parts import (
    build_backbone,
    build_classifier,
    build_extractor,
    build_head,
)
from fewshot_cli.config.schema import MetatrainSpec, PretrainSpec, Recipe
from fewshot_cli.contracts import Extractor, Plan, Solver
from fewshot_cli.runtime.device import matching_device, place
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.training.augment import apply, draw, draw_mixing
from fewshot_cli.training.metatrain import EpisodeObjective
from fewshot_cli.training.optimise import generator, make_optimizer
from fewshot_cli.training.pretrain import ClassObjective

CLASSES = 64  # base classes of invented images, which decide nothing

_Objective: TypeAlias = ClassObjective | EpisodeObjective


@dataclass
class _Clock:
    """Seconds of named stages by `now`, with the device's queue emptied at both ends."""

    device: torch.device
    now: Callable[[], float] = perf_counter
    rounds: list[dict[str, float]] = field(default_factory=list)

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        self._wait()
        begin = self.now()
        out = work()
        self._wait()
        self.rounds[-1][name] = self.rounds[-1].get(name, 0.0) + self.now() - begin
        return out

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class _Timed(Solver):
    """A solver whose calls are timed."""

    def __init__(self, inner: Solver, clock: _Clock) -> None:
        self.inner, self.clock = inner, clock
        for name in ("devices", "exact", "gradient", "warm_start", "tolerance", "options"):
            setattr(self, name, getattr(inner, name))

    def solve(self, *problem: Tensor, **more: Any) -> Plan:
        return self.clock("transport", lambda: self.inner.solve(*problem, **more))


def profile_steps(
    recipe: Recipe, processes: Processes, rounds: int, now: Callable[[], float] = perf_counter
) -> list[dict[str, Any]]:
    """A record for each stage of training, on invented images: seconds of a step and of its parts.

    They are those of one round, whose step took the median time of all (of an even number the lower middle one).
    `compile` compiles the backbone alone here, so that the parts can be told apart. `bare` is the backbone's forward
    and backward alone on a batch that lies ready, in turns with the step; `share` of a record is the step's images
    per second relative to that, by medians. `now` gives the time in seconds.

    Raises `RecipeError` for a solver that cannot run.
    """
    clocks = [_Clock(processes.device, now) for _ in range(2)]
    return [
        _measure("pretrain", _pretraining(recipe, processes.device), clocks[0], rounds),
        _measure("metatrain", _metatraining(recipe, processes.device, clocks[1]), clocks[1], rounds),
    ]


def beside(recipes: list[Recipe], classes: int, processes: Processes, rounds: int) -> list[dict[str, float]]:
    """Seconds of a step of pre-training and of a test pass, for each recipe in turns, medians over rounds.

    On `pretrain.batch` invented images that lie ready, of so many classes. Raises `RecipeError` for a solver that
    cannot run.
    """
    clock = _Clock(processes.device)
    works = [_works(recipe, classes, processes.device) for recipe in recipes]
    for _ in range(rounds + 1):
        clock.rounds.append({})
        for i, steps in enumerate(works):
            for name, work in steps.items():
                clock(f"{name} {i}", work)
    seconds = {k: median(r[k] for r in clock.rounds[1:]) for k in clock.rounds[-1]}  # the first round warms up
    return [{name: seconds[f"{name} {i}"] for name in steps} for i, steps in enumerate(works)]


def _works(recipe: Recipe, classes: int, device: torch.device) -> dict[str, Callable[[], Any]]:
    spec, size = recipe.pretrain, recipe.pretrain.size or recipe.image.size
    images = torch.randn(spec.batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(spec.batch, device=device) % classes
    backbone = place(build_backbone(recipe), device)
    classifier = build_classifier(spec.classifier, backbone.channels, classes, recipe.classifier_solver, device)
    objective = ClassObjective(backbone, classifier, spec).to(device)
    optimizer = make_optimizer(objective, spec.optimizer)

    def train() -> None:
        objective.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=spec.precision == "bf16"):
            loss, _ = objective((images, labels, None))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def test() -> None:
        objective.eval()
        classifier(backbone(images).float())

    return {"training": train, "test": test}


class _Stage:
    """A stage of training on invented images: `objective` on what `batch` makes of them."""

    def __init__(
        self, recipe: Recipe, spec: PretrainSpec | MetatrainSpec, objective: _Objective, extractor: Extractor | None
    ) -> None:
        self.image, self.spec, self.objective, self.extractor = recipe.image, spec, objective, extractor
        self.device, self.size = next(objective.backbone.parameters()).device, spec.size or recipe.image.size
        side = spec.augment.side or recipe.image.decoded
        if extractor is not None and extractor.patches:
            side = extractor.side(recipe.image.size, 2 * recipe.image.size)
        raw = torch.randint(0, 256, (self.count, 3, side, side), dtype=torch.uint8)
        self.raw, self.sizes = raw.to(self.device), torch.full((self.count, 2), float(side))
        self.labels = torch.arange(self.count, device=self.device) % CLASSES
        self.rng = generator(recipe.seed, 0)

    @property
    def count(self) -> int:
        """Images of a step."""
        spec = self.spec
        if isinstance(spec, PretrainSpec):
            return spec.batch
        return spec.episodes_per_step * spec.way * (spec.shot + spec.query)

    def images(self) -> Tensor:
        """The images of a step, cut and augmented."""
        draws = draw(self.sizes, self.spec.augment, self.image, self.rng, self.extractor)
        return apply(self.raw, draws, self.spec.augment, self.image, self.size)

    def batch(self) -> Any:
        """What the objective takes."""
        images = self.images()
        if isinstance(self.spec, PretrainSpec):
            return images, self.labels, draw_mixing(self.count, self.spec.mix, self.size, self.rng)
        return images


def _pretraining(recipe: Recipe, device: torch.device) -> _Stage:
    spec, backbone = recipe.pretrain, place(build_backbone(recipe), device)
    classifier = build_classifier(spec.classifier, backbone.channels, CLASSES, recipe.classifier_solver, device)
    return _Stage(recipe, spec, ClassObjective(backbone, classifier, spec).to(device), None)


def _metatraining(recipe: Recipe, device: torch.device, clock: _Clock) -> _Stage:
    spec, backbone, extractor = recipe.metatrain, place(build_backbone(recipe), device), build_extractor(recipe)
    head = build_head(recipe.head, backbone.channels, recipe.solver)
    matching = matching_device(head.solver, device)
    if head.solver is not None:
        head.solver = _Timed(head.solver, clock)
    return _Stage(
        recipe, spec, EpisodeObjective(backbone, head.to(matching), spec, extractor.patches, matching), extractor
    )


def _measure(name: str, stage: _Stage, clock: _Clock, rounds: int) -> dict[str, Any]:
    objective, spec = stage.objective, stage.spec
    optimizer, ready = make_optimizer(objective, spec.optimizer), stage.images()
    backbone, half = objective.backbone, spec.precision == "bf16"
    if spec.compile:
        backbone = cast(nn.Module, torch.compile(backbone))
    objective.backbone = _Watched(backbone, clock)
    objective.train()
    for _ in range(rounds + 1):
        clock.rounds.append({})
        loss = clock("all", lambda: _step(clock, stage.batch, objective, optimizer, half))
        clock("bare", lambda: _bare(backbone, ready, half))
        optimizer.zero_grad(set_to_none=True)
        del loss
    return _record(name, stage.count, clock.rounds[1:])  # the first round warms up


def _record(stage: str, images: int, rounds: list[dict[str, float]]) -> dict[str, Any]:
    """The parts of one and the same round, so that with what lies between them they add up to the whole step."""
    middle = median_low(r["all"] for r in rounds)
    parts = dict(next(r for r in rounds if r["all"] == middle))
    whole = parts.pop("all")
    del parts["bare"]
    parts["head"] = parts.pop("objective") - parts["backbone"] - parts.get("transport", 0.0)
    return {
        "stage": stage,
        "pictures": images,
        "seconds": whole,
        "parts": parts,
        "pictures_per_second": images / whole,
        "share": median(r["bare"] for r in rounds) / whole,
    }


class _Watched(nn.Module):
    """A backbone whose forward pass is timed."""

    def __init__(self, inner: nn.Module, clock: _Clock) -> None:
        super().__init__()
        self.inner, self.clock = inner, clock

    def forward(self, images: Tensor) -> Tensor:
        return self.clock("backbone", lambda: self.inner(images))


def _bare(backbone: nn.Module, images: Tensor, half: bool) -> None:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
        loss = backbone(images).float().square().mean()
    loss.backward()


def _step(
    clock: _Clock, batch: Callable[[], Any], objective: nn.Module, optimizer: torch.optim.Optimizer, half: bool
) -> Tensor:
    made = clock("augmentation", batch)
    with torch.autocast(clock.device.type, torch.bfloat16, enabled=half):
        loss, _ = clock("objective", lambda: objective(made))
    optimizer.zero_grad(set_to_none=True)
    clock("backward", loss.backward)
    clock("optimiser", optimizer.step)
    return loss.detach()
