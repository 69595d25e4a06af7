"""What qpth's solver does about a PyTorch whose LU of a batch is not safe."""

import subprocess
import sys

import pytest
import torch

from fewshot_cli.solvers import qpth


def test_unsafe_batches_are_split_and_noted_once_on_stderr(monkeypatch, capsys):
    qpth._say_that_batches_are_split.cache_clear()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(qpth, "_mkl_is_dynamic", lambda: False)
    assert not qpth._batches_are_safe() and not qpth._batches_are_safe()
    out = capsys.readouterr()
    assert out.out == "" and out.err.count("so qpth solves one problem at a time") == 1


@pytest.mark.parametrize(("threads", "mkl", "dynamic"), [(1, True, False), (2, False, False), (2, True, True)])
def test_safe_batches_stay_together(monkeypatch, capsys, threads, mkl, dynamic):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    monkeypatch.setattr(qpth, "_mkl_is_dynamic", lambda: dynamic)
    assert qpth._batches_are_safe() and capsys.readouterr().err == ""


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="this PyTorch has no MKL")
def test_mkl_says_whether_the_number_of_threads_was_set():
    code = (
        "import torch\n"
        "from fewshot_cli.solvers.qpth import _mkl_is_dynamic\n"
        "print(_mkl_is_dynamic())\n"
        "torch.set_num_threads(2)\n"
        "print(_mkl_is_dynamic())\n"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300)
    assert run.stdout.split() == ["True", "False"]


def test_a_pytorch_that_does_not_say_counts_as_unsafe(monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "__init__.py"))
    assert not qpth._mkl_is_dynamic()
