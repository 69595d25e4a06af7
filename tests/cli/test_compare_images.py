"""`fsl compare` refuses runs that were evaluated on other images, whose episodes only look alike."""

import json

import pytest

ACCURACIES = {"a": [60.0, 80.0, 70.0], "b": [50.0, 74.0, 72.0]}  # differences 10, 6 and −2


@pytest.fixture
def compare(fsl, tmp_path):
    """Compare two runs of the same classes, of images with these hashes: returns (exit code, stdout, stderr)."""

    def run(*hashes, options=()):
        for (name, accuracies), data in zip(ACCURACIES.items(), hashes, strict=True):
            folder = tmp_path / name
            folder.mkdir()
            records = [
                {
                    "episode": i,
                    "classes": ["cat", "dog"],
                    "correct": int(accuracy / 2),
                    "queries": 50,
                    "accuracy": accuracy,
                    "not_converged": 0,
                }
                for i, accuracy in enumerate(accuracies)
            ]
            (folder / "episodes.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
            if data is not None:
                (folder / "config.json").write_text(json.dumps({"verb": "eval", "identity": {"data": data}}))
        return fsl("compare", "--format", "json", tmp_path / "a", tmp_path / "b", *options)

    return run


def test_runs_on_other_images_are_refused(compare, tmp_path):
    code, out, err = compare("1" * 64, "2" * 64)
    assert code == 3 and out == ""
    assert f"{tmp_path / 'a'} and {tmp_path / 'b'} were evaluated on different" in err


@pytest.mark.parametrize(
    "hashes",
    [("1" * 64, "1" * 64), ("1" * 64, None), (None, None)],
    ids=["the same", "one does not say", "neither says"],
)
def test_runs_that_may_be_on_the_same_images_are_paired(compare, hashes):
    code, out, err = compare(*hashes)
    assert code == 0, err
    result = json.loads(out)
    assert result["episodes"] == 3
    assert result["difference"]["accuracy"] == pytest.approx(14 / 3)


def test_latex_has_both_runs_and_says_that_three_episodes_tell_them_apart_badly(compare):
    code, out, err = compare(None, None, options=("--format", "latex"))
    assert code == 0, err
    rows = [line.strip() for line in out.splitlines() if " & " in line]
    assert rows[0] == r"run & accuracy \% & difference \\"
    assert rows[1].startswith(r"a & \textbf{70.00} $\pm$ 9.24 & +4.67 $\pm$")
    assert rows[2].startswith(r"b & 65.33 $\pm$") and r"$^\dagger$" in rows[2]
