"""The steps of fine-tuning on a support set: batches in an order that depends only on the counts."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


def batches(count: int, batch: int, passes: int | None, iterations: int | None) -> Iterator[Tensor]:
    """Indices of `count` images, `batch` per step, each pass in its own order; stops at whichever limit comes first.

    The order is the same in every episode and run, so what is learned depends on its episode alone.
    """
    step = sweep = 0
    while (passes is None or sweep < passes) and (iterations is None or step < iterations):
        raw = np.random.Philox(key=0x5FC, counter=[0, sweep, count, 0]).random_raw(count)
        for pick in torch.from_numpy(np.argsort(raw, kind="stable")).split(batch):
            if step == iterations:
                return
            yield pick
            step += 1
        sweep += 1
