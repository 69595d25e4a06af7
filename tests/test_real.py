"""Real CIFAR-FS through the command line: the public archive's layout, the shipped weights, the accuracy gate."""

import json
import subprocess
import sys

import pytest

from fewshot_cli import registry


@pytest.fixture(scope="module")
def archive(shared, tmp_path_factory):
    path = tmp_path_factory.mktemp("cifar") / "cifar-100-python.tar.gz"
    subprocess.run(
        [sys.executable, shared / "cifar100" / "expand.py", "archive", path], check=True, capture_output=True
    )
    return path


@pytest.fixture(scope="module")
def root(archive):
    return archive.parent / "data"


@pytest.fixture
def prepared(archive, root, fsl):
    if not (root / "cifar_fs").exists():
        code, out, err = fsl("prepare", "cifar_fs", "--from", archive, "--data-root", root, "--format", "json")
        assert code == 0, err
        assert json.loads(out)["complete_public_data"] is True
        assert [split["images"] for split in json.loads(out)["splits"].values()] == [38400, 9600, 12000]
    return root


@pytest.mark.parametrize(
    "recipe", ["cifar_fs_5w1s_conv64", "cifar_fs_5w1s_conv64_prototype", "cifar_fs_5w5s_conv64_prototype"]
)
def test_shipped_weights_reproduce_the_recipes_accuracy(prepared, fsl, recipe):
    code, out, err = fsl("eval", "--recipe", recipe, "--check", "--format", "json", "--data-root", prepared)
    assert code == 0, err
    got = json.loads(out)
    assert got["episodes"] == 2000 and got["passed"] and got["not_converged"] == 0
    published = {1: 55.5, 5: 72.0}  # a prototypical network with four such layers (Bertinetto et al. 2019, Table 1)
    assert got["accuracy"] > published[got["shot"]]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fc100_5w1s_conv64", "cub_5w1s_conv64"])
def test_shipped_weights_of_other_datasets_reproduce_their_accuracy(archive, root, shared, fsl, recipe):
    dataset = recipe.partition("_")[0]
    if not (root / dataset).exists():
        source = archive if dataset == "fc100" else shared / "cub127"
        assert fsl("prepare", dataset, "--from", source, "--data-root", root)[0] == 0
    code, out, err = fsl("eval", "--recipe", recipe, "--check", "--format", "json", "--data-root", root)
    assert code == 0 and json.loads(out)["passed"], err


def test_every_solver_gives_the_same_accuracy_on_real_features(prepared, fsl, tmp_path):
    """Exact solvers make the same predictions; of the others at most one in a hundred differs."""
    correct, exact = {}, {}
    for solver in registry.entries("solvers"):
        cls = registry.solver(solver)
        if cls.unavailable_reason() is not None:
            continue
        code, _, err = fsl(
            "eval",
            "--recipe",
            "cifar_fs_5w1s_conv64",
            "--solver",
            solver,
            "--episodes",
            {"highs": "3", "qpth": "1"}.get(solver, "16"),
            "--data-root",
            prepared,
            "--run-dir",
            tmp_path / solver,
        )
        if solver == "uniform":  # made for equal weights, which these are not
            assert code == 3 and "nodes of equal weight" in err
            continue
        assert code == 0, err
        lines = (tmp_path / solver / "episodes.jsonl").read_text().splitlines()
        correct[solver] = [json.loads(line)["correct"] for line in lines]
        exact[solver] = cls.exact
    assert {"highs", "opencv", "pot", "sinkhorn", "pot_sinkhorn"} <= set(correct)
    for solver, found in correct.items():
        reference = correct["network_simplex"][: len(found)]
        if exact[solver]:
            assert found == reference, solver
        else:
            assert abs(sum(found) - sum(reference)) <= 0.01 * 75 * len(found), solver


@pytest.mark.slow
def test_node_weights_come_in_the_papers_order_on_real_features(prepared, fsl):
    """DeepEMD's Table 2 on paired episodes, beyond the interval: EMD with cross-reference above everything else."""
    code, out, err = fsl(
        "table",
        "deepemd.T2",
        "--recipe",
        "cifar_fs_5w1s_conv64",
        "--episodes",
        "500",
        "--rows",
        "equal",
        "--rows",
        "Full",
        "--format",
        "json",
        "--data-root",
        prepared,
    )
    assert code == 0, err
    rows = {r["row"]: r for r in json.loads(out)["records"] if r["way"] == 5}
    for name in ("Full connections, average", "Full connections, CR", "EMD, equal"):
        assert rows[name]["difference"] + rows[name]["difference_ci95"] < 0, name


@pytest.mark.slow
def test_the_layer_beats_prototypes_and_its_margin_grows_with_the_shots(prepared, fsl, tmp_path):
    """DeepEMD's Figure 4 on real features, paired: 5 and 20 shots."""
    margin = {}
    for shot in (5, 20):
        for head in ("sfc", "prototype"):
            code, _, err = fsl(
                "eval",
                "--recipe",
                "cifar_fs_5w1s_conv64",
                "--set",
                f"head={head}",
                "--set",
                f"episode.shot={shot}",
                "--episodes",
                "80",
                "--data-root",
                prepared,
                "--run-dir",
                tmp_path / f"{head}{shot}",
            )
            assert code == 0, err
        code, out, err = fsl("compare", "--format", "json", tmp_path / f"sfc{shot}", tmp_path / f"prototype{shot}")
        margin[shot] = json.loads(out)["difference"]
        assert margin[shot]["accuracy"] > margin[shot]["ci95"]
    assert margin[20]["accuracy"] > margin[5]["accuracy"]


def test_a_truncated_public_archive_is_refused(archive, fsl, tmp_path):
    broken = tmp_path / "cifar-100-python.tar.gz"
    broken.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    code, _, err = fsl("prepare", "cifar_fs", "--from", broken, "--data-root", tmp_path / "data")
    assert code == 3 and "truncated or damaged" in err
    assert not (tmp_path / "data" / "cifar_fs").exists()
