"""What qpth's solver does about a PyTorch whose batched LU fails."""

import torch

from fewshot_cli.solvers import qpth


def test_a_batched_lu_without_pivots_is_noted_once_on_stderr(monkeypatch, capsys):
    qpth._say_that_batches_are_split.cache_clear()
    monkeypatch.setattr(torch.linalg, "lu_factor", lambda a: (a, torch.zeros(a.shape[:-1], dtype=torch.int32)))
    assert not qpth._batched_factors_work() and not qpth._batched_factors_work()
    out = capsys.readouterr()
    assert out.out == "" and out.err.count("so qpth solves one problem at a time") == 1


def test_a_batched_lu_with_pivots_is_used(monkeypatch, capsys):
    monkeypatch.setattr(torch.linalg, "lu_factor", lambda a: (a, torch.ones(a.shape[:-1], dtype=torch.int32)))
    assert qpth._batched_factors_work() and capsys.readouterr().err == ""
