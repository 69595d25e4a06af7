"""Probabilities and unknown images: temperature, calibration error, AUROC, and the threshold from a support set."""

import json

import pytest
import torch
from sklearn.metrics import roc_auc_score

from fewshot_cli.contracts import Head
from fewshot_cli.evaluation.calibration import Familiarity, auroc, calibration_error, reliability, temperature
from fewshot_cli.evaluation.support import Examples, calibrate, held_out


def drawn(true_t, count=4000, way=5, seed=0):
    """Logits whose softmax at `true_t` is the chance of each label."""
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * true_t * torch.randn(count, way, generator=rng)
    return logits, torch.multinomial((logits / true_t).softmax(1), 1, generator=rng)[:, 0]


@pytest.mark.parametrize("true_t", [0.03, 1.0, 40.0])
def test_the_temperature_is_found_whatever_the_scale(true_t):
    logits, labels = drawn(true_t)
    assert temperature(logits, labels) == pytest.approx(true_t, rel=0.08)
    fitted = calibrate(logits, labels)
    assert fitted.after < 3 < fitted.before or true_t == 1.0
    assert calibration_error((logits / true_t).softmax(1), labels) < 3


def test_a_few_right_answers_do_not_make_it_sure_of_everything():
    logits = torch.eye(5).repeat(3, 1)
    labels = torch.arange(5).repeat(3)
    probability = float((logits / temperature(logits, labels)).softmax(1).max())
    assert 0.9 < probability < 1 - 1e-5


def test_held_out_probabilities_do_not_see_their_own_labels():
    logits, labels = drawn(1.0, count=200)
    changed = labels.clone()
    changed[::2] = (changed[::2] + 1) % 5
    assert torch.equal(held_out(logits, labels)[1::2], held_out(logits, labels)[1::2])
    assert torch.equal(held_out(logits, labels)[0::2], held_out(logits, changed)[0::2])
    assert not torch.allclose(held_out(logits, labels)[1::2], held_out(logits, changed)[1::2])


def test_calibration_error_by_hand():
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.35, 0.65]])
    labels = torch.tensor([0, 1, 1, 1])
    bins = reliability(probabilities, labels, bins=5)
    assert [one.images for one in bins] == [2, 2] and [one.right for one in bins] == [1.0, 0.5]
    assert calibration_error(probabilities, labels) == pytest.approx(100 * (2 * 0.4 + 0.4 + 0.35) / 4, abs=1e-4)


def test_auroc_is_scikit_learns_with_ties():
    rng = torch.Generator().manual_seed(0)
    known, unknown = (torch.randint(0, 9, (n,), generator=rng).float() + s for n, s in ((50, 1), (70, 0)))
    want = roc_auc_score([1] * 50 + [0] * 70, torch.cat([known, unknown]))
    assert auroc(known, unknown) == pytest.approx(100 * want)


def test_familiarity_takes_what_tells_known_from_unknown():
    """Where unknown images are as near as known ones to their nearest class, but stand out less, and the reverse."""
    rng = torch.Generator().manual_seed(0)
    noise = [0.05 * torch.randn(60, 5, generator=rng) for _ in range(2)]
    level = 3 * torch.rand(60, 1, generator=rng)
    stands_out = torch.tensor([1.0, 0, 0, 0, 0])
    known, unknown = level + stands_out + noise[0], level + 0.3 * stands_out + noise[1]  # any level
    measure = Familiarity(known[:30], unknown[:30])
    assert auroc(measure(known[30:]), measure(unknown[30:])) > 95 > auroc(known[30:].amax(1), unknown[30:].amax(1))
    known, unknown = stands_out + noise[0], stands_out - 0.5 + noise[1]  # the same contrast, farther away
    measure = Familiarity(known[:30], unknown[:30])
    assert auroc(measure(known[30:]), measure(unknown[30:])) > 95


class Means(Head):
    """Minus the distance to class means."""

    def __init__(self):
        super().__init__(channels=2)

    def forward(self, support, query):
        return -torch.cdist(query.flatten(2), support.mean(2).flatten(2))


def test_leaving_out_is_what_it_says():
    maps = torch.randn(7, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    examples = Examples(maps, torch.tensor([0, 0, 0, 1, 1, 1, 2]))
    rounds = list(examples.without_one())
    assert [out.tolist() for _, out in rounds] == [[0, 3], [1, 4], [2, 5]]
    assert rounds[1][0].maps.equal(maps[[0, 2, 3, 5, 6]]) and rounds[1][0].labels.tolist() == [0, 0, 1, 1, 2]
    fewer = examples.without_class(1)
    assert fewer.maps.equal(maps[[0, 1, 2, 6]]) and fewer.labels.tolist() == [0, 0, 0, 1]


def test_as_many_unknown_images_pass_as_were_asked_for():
    """Over many support sets of classes at random places, with more classes as unknown ones."""
    rng, head, passed, refused = torch.Generator().manual_seed(0), Means(), [], []
    for _ in range(300):
        centres = 3 * torch.randn(12, 2, generator=rng)
        support = centres[:6, None] + 0.3 * torch.randn(6, 5, 2, generator=rng)
        examples = Examples(support.reshape(30, 2, 1, 1), torch.arange(6).repeat_interleave(5))
        told, score = examples.recognition(head, examples.left_out(head)[0], 0.1), examples.score(head)
        unknown = (centres[6:] + 0.3 * torch.randn(6, 2, generator=rng)).reshape(6, 2, 1, 1)
        known = (centres[:6] + 0.3 * torch.randn(6, 2, generator=rng)).reshape(6, 2, 1, 1)
        passed.append(float((told.familiarity(score(unknown)) >= told.threshold).float().mean()))
        refused.append(float((told.familiarity(score(known)) < told.threshold).float().mean()))
    assert 0.05 < sum(passed) / 300 < 0.2 and sum(refused) / 300 < 0.6


def test_open_set_evaluation(fsl, glyph_root):
    words = (
        "eval",
        "--recipe",
        "glyphs_5w5s",
        "--set",
        "head=prototype",
        "--data-root",
        glyph_root,
        "--episodes",
        "20",
    )
    code, out, err = fsl(*words, "--open-set", "5", "--format", "json")
    assert code == 0, err
    result = json.loads(out)
    plain = json.loads(fsl(*words, "--format", "json")[1])
    assert result["accuracy"] == pytest.approx(plain["accuracy"], abs=1e-4)  # the known classes are the same episodes
    assert set(result["auroc"]) == {"learned", "max_softmax", "energy", "nearest"}
    assert all(50 < area["mean"] < 100 for area in result["auroc"].values())
    assert result["calibration_error"]["after"] < result["calibration_error"]["before"]
    code, out, _ = fsl(*words, "--open-set", "5")
    assert code == 0 and "unknown taken for known %" in out
    code, _, err = fsl(*words, "--open-set", "5", "--check")
    assert code == 2 and "measurement of its own" in err
    code, _, err = fsl(*words, "--open-set", "50")
    assert code == 3 and "55-way episodes" in err
