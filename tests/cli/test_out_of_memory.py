"""An allocator that gives up is answered by a sentence on what to lower; any other fault is not."""

import numpy as np
import pytest
import torch
import typer

from fewshot_cli.cli import app

BEYOND = 1 << 60  # bytes, more than any machine can address


def on_a_gpu():
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee the documentation")


def without_a_message():
    raise MemoryError


def without_threads():
    raise RuntimeError("can't start new thread")


GIVES_UP = {
    "a limit on threads": without_threads,
    "Python": lambda: bytearray(BEYOND),
    "NumPy": lambda: np.empty(BEYOND, np.uint8),
    "PyTorch on a CPU": lambda: torch.empty(BEYOND, dtype=torch.uint8),
    "PyTorch on a GPU": on_a_gpu,
    "without a message": without_a_message,
}


@pytest.fixture
def failing(monkeypatch):
    """Give `fsl` a verb that fails in a given way, and no other."""

    def make(work):
        commands = typer.Typer(cls=app.Verbs, pretty_exceptions_enable=False)
        commands.callback()(app.root)

        @commands.command()
        def fail():
            work()

        monkeypatch.setattr(app, "app", commands)

    return make


@pytest.mark.parametrize("work", GIVES_UP.values(), ids=GIVES_UP)
def test_a_lack_of_memory_is_a_sentence(fsl, failing, work):
    failing(work)
    code, out, err = fsl("fail")
    assert code == 3 and out == ""
    assert err.startswith("fsl: out of memory") and err.count("\n") == 1  # one line, whatever the allocator wrote
    assert "lower --batch" in err and "pretrain.batch" in err
    assert "internal fault" not in err and "Traceback" not in err


def test_what_the_allocator_said_is_kept(fsl, failing):
    failing(on_a_gpu)
    assert "CUDA out of memory. Tried to allocate 20.00 GiB." in fsl("fail")[2]


def test_another_fault_is_still_an_internal_one(fsl, failing):
    def work():
        raise RuntimeError("shapes do not fit")

    failing(work)
    code, _, err = fsl("fail")
    assert code == 3
    assert "internal fault" in err and "shapes do not fit" in err and "out of memory" not in err


@pytest.mark.parametrize("work", GIVES_UP.values(), ids=GIVES_UP)
def test_with_debug_the_traceback_comes_before_the_sentence(fsl, failing, work):
    failing(work)
    code, out, err = fsl("fail", "--debug")
    assert code == 3 and out == ""
    assert err.startswith("Traceback") and "in fail\n" in err
    assert err.splitlines()[-1].startswith("fsl: out of memory")
