"""Decoded images take at most half of the free memory; a split that needs more is kept in a file."""

from types import SimpleNamespace

import pytest
import torch

from fewshot_cli.config.load import load_recipe
from fewshot_cli.data import pixels

SIDE, COUNT = 8, 3
SIZE = COUNT * 3 * SIDE * SIDE  # bytes of the decoded images


def world(device="cpu", processes=1):
    """One of several processes on this machine."""
    return SimpleNamespace(device=torch.device(device), local=processes)


@pytest.fixture
def free(monkeypatch):
    """Set how many bytes are free in the machine's memory and on its GPU."""

    def set_to(cpu, cuda=None):
        monkeypatch.setattr(pixels, "free_memory", lambda device: {"cpu": cpu, "cuda": cuda}[device.type])

    return set_to


@pytest.mark.parametrize(
    ("bytes_free", "processes", "room"), [(1000, 1, 500), (1000, 2, 250), (999, 1, 499), (0, 1, 0)]
)
def test_half_of_the_free_memory_is_shared_by_the_processes(free, bytes_free, processes, room):
    free(bytes_free)
    assert pixels.room(world(processes=processes)) == room


@pytest.mark.parametrize(
    ("cpu", "cuda", "room"),
    [(1000, 400, 200), (400, 1000, 200)],
    ids=["the GPU has less", "the machine has less"],
)
def test_images_on_a_gpu_must_fit_there_too(free, cpu, cuda, room):
    free(cpu, cuda)
    assert pixels.room(world("cuda")) == room


def test_each_process_has_half_of_its_own_gpu(free):
    free(1 << 40, 1000)
    assert pixels.room(world("cuda", processes=4)) == 500


class Images:
    """A split of noise that can be decoded into a tensor."""

    store, split = "noise", "train"

    def __len__(self):
        return COUNT

    def decode(self, side, crop, tick, into=None):
        out = torch.empty(COUNT, 3, side, side, dtype=torch.uint8) if into is None else into
        out.copy_(torch.randint(256, out.shape, generator=torch.Generator().manual_seed(0)))
        return out, torch.full((COUNT, 2), float(side))


@pytest.mark.parametrize(
    ("bytes_free", "mapped"),
    [(2 * SIZE, False), (2 * SIZE - 1, True), (SIZE, True), (10 * SIZE, False)],
)
def test_a_split_of_more_than_half_the_free_memory_is_mapped(free, tmp_path, capsys, bytes_free, mapped):
    free(bytes_free)
    images = pixels.Pixels(Images(), load_recipe("glyphs_5w1s"), SIDE, tmp_path, world())
    assert images.mapped is mapped
    assert ("do not fit; they are kept in a file" in capsys.readouterr().err) is mapped
    assert torch.equal(images(torch.tensor([2, 0])), Images().decode(SIDE, "box", None)[0][[2, 0]])
