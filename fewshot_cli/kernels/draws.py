"""The drawing of an episode, compiled: raw words of Philox 4×64 (Salmon et al. 2011), as NumPy gives them."""

import numpy as np

from fewshot_cli.kernels.compile import njit

LOW, HALF, ONE = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(1)
FACTORS = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
STEPS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)


@njit(forceinline=True)
def high(a, b):
    """The upper 64 bits of a product of two numbers of 64 bits."""
    a_low, a_high, b_low, b_high = a & LOW, a >> HALF, b & LOW, b >> HALF
    middle = a_high * b_low + (a_low * b_low >> HALF)
    other = a_low * b_high + (middle & LOW)
    return a_high * b_high + (middle >> HALF) + (other >> HALF)


@njit
def philox(key, block, stream, number, words):
    """The four `words` of the counter [block, stream, number, 0] under a key of two."""
    c0, c1, c2, c3, k0, k1 = block, stream, number, np.uint64(0), key[0], key[1]
    for _ in range(10):
        c0, c1, c2, c3 = (
            high(FACTORS[1], c2) ^ c1 ^ k0,
            FACTORS[1] * c2,
            high(FACTORS[0], c0) ^ c3 ^ k1,
            FACTORS[0] * c0,
        )
        k0, k1 = k0 + STEPS[0], k1 + STEPS[1]
    words[0], words[1], words[2], words[3] = c0, c1, c2, c3


@njit
def shuffled(key, number, stream, count, swaps, out):
    """The first len(out) places of a Fisher-Yates shuffle of range(count); `swaps` [2,≥len(out)] is room."""
    words, filled = np.empty(4, np.uint64), 0
    for i in range(len(out)):
        if i % 4 == 0:  # NumPy counts up before it draws
            philox(key, np.uint64(i // 4 + 1), np.uint64(stream), np.uint64(number), words)
        j = i + np.int64(high(words[i % 4], np.uint64(count - i)))
        here, there, known = i, j, -1
        for k in range(filled):
            if swaps[0, k] == i:
                here = swaps[1, k]
            if swaps[0, k] == j:
                there, known = swaps[1, k], k
        out[i] = there
        if known < 0:
            swaps[0, filled], known = j, filled
            filled += 1
        swaps[1, known] = here


@njit(title="the drawing of episodes")
def episode(key, number, starts, images, chosen, picks):
    """The classes of an episode, `chosen` [way], and images of each, `picks` [way,take].

    Class c has `images` starts[c] … starts[c+1]−1.
    """
    swaps = np.empty((2, max(picks.shape[1], len(chosen))), np.int64)
    shuffled(key, number, 0, len(starts) - 1, swaps, chosen)
    for k in range(len(chosen)):
        first, stop = starts[chosen[k]], starts[chosen[k] + 1]
        shuffled(key, number, 1 + chosen[k], stop - first, swaps, picks[k])
        for t in range(picks.shape[1]):
            picks[k, t] = images[first + picks[k, t]]
