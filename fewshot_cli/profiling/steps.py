"""Where the time of a training step goes: augmentation, backbone, head, transport, backward, optimiser."""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median, median_low
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from fewshot_cli.config.parts import (
    build_backbone,
    build_classifier,
    build_extractor,
    build_head,
    decoded_side,
)
from fewshot_cli.config.schema import MetatrainSpec, PretrainSpec, Recipe
from fewshot_cli.contracts import Plan, Solver
from fewshot_cli.runtime.device import matching_device
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.training.augment import apply, draw, draw_mixing
from fewshot_cli.training.metatrain import EpisodeObjective
from fewshot_cli.training.optimise import generator, make_optimizer
from fewshot_cli.training.pretrain import ClassObjective

CLASSES = 64  # base classes of invented pictures, which decide nothing


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
        for name in ("devices", "exact", "gradient", "warm_start", "options"):
            setattr(self, name, getattr(inner, name))

    def solve(self, *problem: Tensor, **more: Any) -> Plan:
        return self.clock("transport", lambda: self.inner.solve(*problem, **more))


def profile_steps(
    recipe: Recipe, processes: Processes, rounds: int, now: Callable[[], float] = perf_counter
) -> list[dict[str, Any]]:
    """A record for each stage of training, on invented pictures: seconds of a step and of its parts.

    They are those of one round, whose step took the median time of all (of an even number the lower middle one).
    `compile` compiles the backbone alone here, so that the parts can be told apart. `bare` is the backbone's forward
    and backward alone on a batch that lies ready, in turns with the step; `share` of a record is what the step reaches
    of the pictures a second of that, by medians. `now` gives the time in seconds.

    Raises `RecipeError` for a solver that cannot run.
    """
    return [
        _measure("pretrain", recipe, recipe.pretrain, processes, rounds, now),
        _measure("metatrain", recipe, recipe.metatrain, processes, rounds, now),
    ]


def beside(recipes: list[Recipe], classes: int, processes: Processes, rounds: int) -> list[dict[str, float]]:
    """Seconds of a step of pre-training and of a test pass, for each recipe in turns, medians over rounds.

    On `pretrain.batch` invented pictures that lie ready, of so many classes. Raises `RecipeError` for a solver that
    cannot run.
    """
    clock = _Clock(processes.device)
    works = [_works(recipe, classes, processes.device) for recipe in recipes]
    for _ in range(rounds + 1):
        clock.rounds.append({})
        for place, own in enumerate(works):
            for name, work in own.items():
                clock(f"{name} {place}", work)
    seconds = {k: median(r[k] for r in clock.rounds[1:]) for k in clock.rounds[-1]}  # the first round warms up
    return [{name: seconds[f"{name} {place}"] for name in own} for place, own in enumerate(works)]


def _works(recipe: Recipe, classes: int, device: torch.device) -> dict[str, Callable[[], Any]]:
    spec, size = recipe.pretrain, recipe.image.size
    images = torch.randn(spec.batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(spec.batch, device=device) % classes
    backbone = build_backbone(recipe).to(device, memory_format=torch.channels_last)
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


def _measure(
    stage: str,
    recipe: Recipe,
    spec: PretrainSpec | MetatrainSpec,
    processes: Processes,
    rounds: int,
    now: Callable[[], float],
) -> dict[str, Any]:
    device, clock, extractor = processes.device, _Clock(processes.device, now), build_extractor(recipe)
    backbone = build_backbone(recipe).to(device, memory_format=torch.channels_last)
    pictures = _pictures(stage, spec)
    if stage == "pretrain":
        classifier = build_classifier(spec.classifier, backbone.channels, CLASSES, recipe.classifier_solver, device)
        objective, extractor = ClassObjective(backbone, classifier, spec).to(device), None
    else:
        head = build_head(recipe.head, backbone.channels, recipe.solver)
        home = matching_device(head.solver, device)
        if head.solver is not None:
            head.solver = _Timed(head.solver, clock)
        objective = EpisodeObjective(backbone, head.to(home), spec, extractor.patches, home)
    patches = extractor is not None and extractor.patches
    side = decoded_side(recipe) if patches else spec.augment.side or recipe.image.decoded
    optimizer = make_optimizer(objective, spec.optimizer)
    raw = torch.randint(0, 256, (pictures, 3, side, side), dtype=torch.uint8, device=device)
    sizes, labels = torch.full((pictures, 2), float(side)), torch.arange(pictures, device=device) % CLASSES
    rng = generator(recipe.seed, 0)

    def batch() -> Any:
        images = apply(raw, draw(sizes, spec.augment, recipe.image, rng, extractor), spec.augment, recipe.image)
        return (
            (images, labels, draw_mixing(pictures, spec.mix, recipe.image.size, rng)) if stage == "pretrain" else images
        )

    ready = batch()
    shown = ready[0] if stage == "pretrain" else ready
    bare, half = torch.compile(backbone) if spec.compile else backbone, spec.precision == "bf16"
    objective.backbone = _Watched(bare, clock, backbone.channels)
    objective.train()
    for _ in range(rounds + 1):
        clock.rounds.append({})
        loss = clock("all", lambda: _step(clock, batch, objective, optimizer, half))
        clock("bare", lambda: _bare(bare, shown, half))
        optimizer.zero_grad(set_to_none=True)
        del loss
    return _record(stage, pictures, clock.rounds[1:])  # the first round warms up


def _record(stage: str, pictures: int, rounds: list[dict[str, float]]) -> dict[str, Any]:
    """The parts of one and the same round, so that with what lies between them they add up to the whole step."""
    middle = median_low(r["all"] for r in rounds)
    parts = dict(next(r for r in rounds if r["all"] == middle))
    whole = parts.pop("all")
    del parts["bare"]
    parts["head"] = parts.pop("objective") - parts["backbone"] - parts.get("transport", 0.0)
    return {
        "stage": stage,
        "pictures": pictures,
        "seconds": whole,
        "parts": parts,
        "pictures_per_second": pictures / whole,
        "share": median(r["bare"] for r in rounds) / whole,
    }


def _pictures(stage: str, spec: PretrainSpec | MetatrainSpec) -> int:
    return spec.batch if stage == "pretrain" else spec.episodes_per_step * spec.way * (spec.shot + spec.query)


class _Watched(nn.Module):
    """A backbone whose forward pass is timed."""

    def __init__(self, inner: nn.Module, clock: _Clock, channels: int) -> None:
        super().__init__()
        self.inner, self.clock, self.channels = inner, clock, channels

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
