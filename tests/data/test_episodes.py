"""Episodes are a pure function of dataset, split, seed and number."""

from collections import Counter

import pytest
import torch

from fewshot_cli.data.episodes import Sampler, gather
from fewshot_cli.data.store import Split, open_store
from fewshot_cli.errors import DataError


def split_of(sizes: list[int]) -> Split:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return Split("toy", "test", [f"c{i}" for i in range(len(sizes))], labels, "", {}, None, "raw")


def test_known_episode_never_changes():
    episode = Sampler(split_of([30] * 12), 5, 1, 3, seed=1)(7)
    assert episode.classes == (2, 5, 9, 10, 8)
    assert episode.support.tolist() == [[79], [178], [287], [319], [263]]
    assert episode.query[0].tolist() == [65, 66, 61]


def test_order_and_batching_do_not_matter():
    sampler = Sampler(split_of([25] * 9), 5, 2, 4, seed=3)
    forward = [sampler(n) for n in range(20)]
    for n in reversed(range(20)):
        again = sampler(n)
        assert again.classes == forward[n].classes
        assert torch.equal(again.support, forward[n].support) and torch.equal(again.query, forward[n].query)


def test_support_and_query_are_distinct_and_of_their_class():
    split = split_of([20, 25, 30, 22, 21, 40])
    for n in range(50):
        episode = Sampler(split, 5, 3, 10, seed=0)(n)
        assert len(set(episode.classes)) == 5
        both = torch.cat([episode.support, episode.query], 1)
        for row, cls in zip(both, episode.classes, strict=True):
            assert len(set(row.tolist())) == 13
            assert (split.labels[row] == cls).all()


def test_more_shots_and_ways_contain_the_smaller_episode():
    split = split_of([40] * 20)
    small, large = Sampler(split, 5, 1, 15, seed=2)(4), Sampler(split, 10, 5, 15, seed=2)(4)
    assert large.classes[:5] == small.classes
    assert torch.equal(large.query[:5], small.query)
    assert torch.equal(large.support[:5, :1], small.support)


def test_every_class_and_image_is_drawn_equally_often():
    sampler = Sampler(split_of([6] * 8), 4, 1, 2, seed=5)
    classes, images = Counter(), Counter()
    for n in range(4000):
        episode = sampler(n)
        classes.update(episode.classes)
        images.update(episode.support.flatten().tolist())
    assert all(abs(count / 2000 - 1) < 0.08 for count in classes.values()) and len(classes) == 8
    assert all(abs(count / (16000 / 48) - 1) < 0.25 for count in images.values()) and len(images) == 48


def test_seed_split_and_dataset_change_episodes():
    a = Sampler(split_of([30] * 12), 5, 1, 5, seed=1)(0)
    b = Sampler(split_of([30] * 12), 5, 1, 5, seed=2)(0)
    assert (a.classes, a.query.tolist()) != (b.classes, b.query.tolist())


def test_a_class_too_small_is_named_with_have_and_need():
    with pytest.raises(DataError, match=r"class c2 has 9 images, an episode needs 16 \(1 support \+ 15 query\)"):
        Sampler(split_of([20, 20, 9]), 2, 1, 15, seed=0)
    with pytest.raises(DataError, match="has 3 classes, 5-way episodes need 5"):
        Sampler(split_of([20] * 3), 5, 1, 15, seed=0)


def test_gather_puts_each_image_where_its_label_is(glyph_root):
    split = open_store(glyph_root, "glyphs").split("test")
    features = split.labels.float().view(-1, 1, 1, 1)
    episodes = [Sampler(split, 5, 2, 3, seed=1)(n) for n in range(4)]
    support, query = gather(features, episodes)
    for e, episode in enumerate(episodes):
        assert support[e, :, :, 0, 0, 0].tolist() == [[float(c)] * 2 for c in episode.classes]
        truth = torch.tensor(episode.classes)[episode.labels()].float()
        assert torch.equal(query[e, :, 0, 0, 0], truth)
