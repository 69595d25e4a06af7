"""Each phase of meta-training draws episodes that no phase before it has drawn."""

import numpy as np
import pytest
import torch

from fewshot_cli.config.load import load_recipe
from fewshot_cli.data.episodes import Sampler
from fewshot_cli.data.writer import StoreWriter
from fewshot_cli.runtime.processes import Processes
from fewshot_cli.training import metatrain
from fewshot_cli.weights import checkpoint

RECIPE = """
base: glyphs_5w1s
dataset: {name: glyphs, store: small}
image: {size: 8}
backbone: {name: conv64, channels: 4, last_pool: false, third_pool: false}
head: prototype
episode: {query: 2}
metatrain:
  start: none
  epochs: 2
  steps: 3
  episodes_per_step: 2
  query: 2
  augment: {crop: none, flip: false}
  validation: {episodes: 1}
  phases:
    one: {}
    two: {epochs: 1}
    three: {epochs: 4, steps: 1}
"""
EPISODES = {"one": 2 * 3 * 2, "two": 1 * 3 * 2, "three": 4 * 1 * 2}


class Phases:
    """Runs the phases without learning anything, and keeps what each asked its sampler for."""

    def __init__(self, root, folder):
        self.root, self.folder, self.recipe = root, folder, folder / "phased.yaml"
        self.episodes, self.seeds, self.stop_in = {}, {}, None
        self.recipe.write_text(RECIPE)

    def run(self, resume=False):
        loaded, world = load_recipe(str(self.recipe)), Processes(torch.device("cpu"))
        return metatrain.metatrain(loaded, self.root, self.folder / "run", resume, world, None)

    def sampler(self, *arguments):
        draw = Sampler(*arguments)

        def drawn(number):
            episode = draw(number)
            self.current.append(episode)
            return episode

        return drawn

    def fit(self, run, spec, job, world, seed, board):
        """In place of training: takes every batch and saves the weights as they are."""
        name = run.path.name
        self.current = self.episodes[name] = []
        if name == self.stop_in:
            raise KeyboardInterrupt
        for epoch in range(spec.epochs):
            assert len(list(job.batches(epoch, torch.Generator().manual_seed(seed)))) == spec.steps
        self.seeds[name] = seed
        weights = run.path / "weights.safetensors"
        checkpoint.save(weights, job.modules, job.sidecar)
        summary = {"epochs": spec.epochs, "best": {"epoch": spec.epochs}, "weights": str(weights)}
        run.finish(summary)
        return summary


@pytest.fixture
def small_root(tmp_path):
    """A data root with a store of eight classes of ten images in each of two splits."""
    noise = np.random.default_rng(0)
    info = {"dataset": "Glyphs", "options": {}, "licence": "", "sources": []}
    with StoreWriter(tmp_path / "data", "small", info) as writer:
        for split in ("train", "val"):
            for number in range(80):
                pixels = noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                writer.add(split, f"{split}{number // 10}", pixels, str(number))
        writer.finish()
    return tmp_path / "data"


@pytest.fixture
def phases(small_root, tmp_path, monkeypatch):
    """The phases of a recipe, with nothing learned."""
    made = Phases(small_root, tmp_path)
    monkeypatch.setattr(metatrain, "Sampler", made.sampler)
    monkeypatch.setattr(metatrain, "fit", made.fit)
    return made


def images(episode):
    """What an episode consists of."""
    return tuple(torch.cat([episode.support, episode.query], 1).flatten().tolist())


def test_a_phase_draws_other_episodes_than_those_before_it(phases):
    assert phases.run()["epochs"] == 7
    assert {name: len(episodes) for name, episodes in phases.episodes.items()} == EPISODES
    drawn = [images(episode) for episodes in phases.episodes.values() for episode in episodes]
    assert len(set(drawn)) == len(drawn)
    numbers = [episode.number for episodes in phases.episodes.values() for episode in episodes]
    assert numbers == list(range(sum(EPISODES.values())))  # the phases share one sequence of episodes
    assert len(set(phases.seeds.values())) == 3  # nor does a phase repeat the crops and the order of another


def test_a_resumed_run_goes_on_with_the_episodes_of_its_phase(phases):
    phases.stop_in = "two"
    with pytest.raises(KeyboardInterrupt):
        phases.run()
    phases.stop_in = None
    phases.run(resume=True)
    first = EPISODES["one"]
    assert [episode.number for episode in phases.episodes["two"]] == list(range(first, first + EPISODES["two"]))
