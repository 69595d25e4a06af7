"""`fsl doctor`: what works, what is missing and how to get it, and the verdict."""

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from fewshot_cli import registry
from fewshot_cli.testing import machine
from fewshot_cli.testing.machine import Finding


def found(root, **of):
    return {one.what: one for one in machine.findings(root)}


def test_a_machine_that_works_says_so(fsl, tmp_path):
    code, out, err = fsl("doctor", "--data-root", tmp_path)
    assert code == 0 and err == "" and "verdict: fsl works here, on the " in " ".join(out.split())
    rows = {row["what"]: row for row in json.loads(fsl("doctor", "--format", "json")[1])}
    assert rows["exact matching"]["state"] == "works" and rows["verdict"]["state"].startswith("fsl works here")
    assert "free" in rows["memory"]["state"] and "glyphs_conv64" in rows["weights"]["state"]


def test_what_is_missing_is_told_with_the_command(tmp_path, monkeypatch):
    whole = machine.version

    def version(package):
        if package in ("faiss-cpu", "onnx"):
            raise PackageNotFoundError(package)
        return whole(package)

    monkeypatch.setattr(machine, "version", version)
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    monkeypatch.setattr(machine.installed, "names", lambda: ["glyphs_conv64"])
    facts = found(tmp_path)
    assert facts["extra faiss (large galleries)"] == Finding(
        "extra faiss (large galleries)", "missing: faiss-cpu", "pip install 'fewshot-cli[faiss]'"
    )
    assert facts["extra export (fsl export)"].state.startswith("missing: onnx")
    assert "cub_resnet12" in facts["weights that are not here"].state
    assert facts["weights that are not here"].get == "pip install 'fewshot-cli[weights]'"
    said = machine.verdict(list(facts.values()))
    assert said.startswith("fsl works here, on the ") and "extra faiss (large galleries)" in said


def test_every_extra_for_users_is_looked_at_and_described():
    declared = machine._declared()
    assert {"photos", "export", "faiss"} <= set(declared) and not {"all", "dev"} & set(declared)
    assert declared["timm"] == ["timm", "torchvision"]
    assert set(machine._GIVES) <= set(declared)


def test_extras_of_an_installed_package(monkeypatch):
    needs = ["torch>=2", 'faiss-cpu>=1.8; extra == "faiss"', "onnx>=1; extra == 'export'", 'ruff; extra == "dev"']
    monkeypatch.setattr(machine, "requires", lambda name: [*needs, 'fewshot-cli[faiss]; extra == "all"'])
    monkeypatch.setattr(machine.Path, "is_file", lambda path: False)
    assert machine._declared() == {"faiss": ["faiss-cpu"], "export": ["onnx"]}


def test_without_exact_matching_nothing_works(fsl, monkeypatch):
    own = registry.solver("network_simplex")

    def broken(self, cost, supply, demand):
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(own, "solve", broken)
    code, out, _ = fsl("doctor", "--format", "json")
    rows = {row["what"]: row for row in json.loads(out)}
    assert code == 1 and rows["exact matching"]["state"] == "no compiler"
    assert rows["verdict"]["state"] == "fsl does not work here: exact matching: no compiler"
    monkeypatch.setattr(own, "solve", lambda self, c, s, d: type("Plan", (), {"flow": torch.ones(1, 3, 3)}))
    assert fsl("doctor")[0] == 1


def test_little_room_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 5e8}))
    monkeypatch.setattr(machine, "free_memory", lambda device: 10**9)
    facts = found(tmp_path / "not" / "there")
    assert facts[f"disk of the data in {tmp_path / 'not' / 'there'}"].state == "0.5 GB free"
    assert "free some space" in facts["disk of this folder"].get and "--batch 1" in facts["memory"].get
    monkeypatch.setattr(machine.os, "access", lambda path, mode: False)
    assert "cannot be written to" in found(tmp_path)["disk of this folder"].state


@pytest.mark.parametrize("driver", [True, False])
def test_cupy_is_asked_for_where_there_is_a_gpu_only(tmp_path, monkeypatch, driver):
    monkeypatch.setattr(machine, "_has_driver", lambda: driver)
    monkeypatch.setattr(machine, "_is_installed", lambda package: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    facts = found(tmp_path)
    assert ("pytorch.org" in facts["GPU"].get) == driver
    if driver:
        assert facts["extra cuda12 (solving on a GPU)"].get == "pip install 'fewshot-cli[cuda12]'"
    else:
        assert facts["extra cuda12"].get == ""
    assert not any("cuda13" in name for name in facts)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert any("cuda13" in name for name in found(tmp_path))
    assert Path(facts["compiled kernels"].state.removeprefix("kept in ")).is_dir()
