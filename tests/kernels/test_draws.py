"""The compiled drawing of episodes is that of NumPy's Philox, word by word."""

import numpy as np
import pytest

from fewshot_cli.kernels import draws

KEY = np.array([0x0123456789ABCDEF, 0xFEDCBA9876543210], np.uint64)


def shuffled(number, stream, count, take):
    """The first places of a Fisher-Yates shuffle by NumPy's words."""
    words = np.random.Philox(key=KEY, counter=[0, stream, number, 0]).random_raw(take).tolist()
    places = list(range(count))
    for i, word in enumerate(words):
        j = i + (word * (count - i) >> 64)
        places[i], places[j] = places[j], places[i]
    return places[:take]


@pytest.mark.parametrize("number", [0, 1, 599, 2**31 + 5, 2**53])
@pytest.mark.parametrize("stream", [0, 7, 2**40])
def test_words_are_numpys(number, stream):
    wanted = np.random.Philox(key=KEY, counter=[0, stream, number, 0]).random_raw(12)
    words = np.empty(4, np.uint64)
    for block in range(3):
        draws.philox(KEY, np.uint64(block + 1), np.uint64(stream), np.uint64(number), words)
        assert words.tolist() == wanted[4 * block : 4 * block + 4].tolist()


@pytest.mark.parametrize("sizes", [[5, 9, 7, 6], [600] * 20, [40, 5, 2000, 17, 30]])
def test_an_episode_is_drawn_as_by_a_shuffle_of_each_class(sizes):
    starts = np.cumsum([0, *sizes])
    images = np.random.default_rng(1).permutation(starts[-1])
    for number in (0, 3, 10**12):
        for way, take in ((2, 5), (len(sizes), 1), (1, 4)):
            chosen, picks = np.empty(way, np.int64), np.empty((way, take), np.int64)
            draws.episode(KEY, number, starts, images, chosen, picks)
            assert chosen.tolist() == shuffled(number, 0, len(sizes), way)
            for c, row in zip(chosen.tolist(), picks.tolist(), strict=True):
                wanted = shuffled(number, 1 + c, sizes[c], take)
                assert row == images[starts[c] : starts[c + 1]][wanted].tolist()


def test_a_whole_class_is_a_permutation():
    picks = np.empty((1, 300), np.int64)
    draws.episode(KEY, 4, np.array([0, 300]), np.arange(300), np.empty(1, np.int64), picks)
    assert sorted(picks[0].tolist()) == list(range(300)) and picks[0].tolist() == shuffled(4, 1, 300, 300)
