"""What poses the transport problems of an evaluation on a CPU: a few passes over the features, where PyTorch's
operations take thirty, each with threads to wait for on a busy machine. See `posing`, and `local` for the formulas.
"""

import numpy as np

from fewshot_cli.kernels import vectors
from fewshot_cli.kernels.compile import FLOATS, njit

NOWHERE = 1e-10  # of a feature's square: where no more than this is left without its mean, it has no direction


@njit(title="the lengths of features", **FLOATS)
def measure(nodes, centred, inverse, mean, begin, end):
    """Of images begin … end−1, nodes [B,n,d]: one over each node's length, `inverse` [B,n], without its mean over
    channels if `centred`; zero where nothing is left. `mean` [B,d] is that over the nodes.
    """
    n, d = nodes.shape[1:]
    flat, lanes = nodes.reshape(-1), vectors.lanes_of(nodes)
    none, one, ones = vectors.splat_like(flat, 0.0), vectors.splat_like(flat, 1.0), np.ones(lanes, nodes.dtype)
    for b in range(begin, end):
        mean[b] = 0
        for i in range(n):
            base, total, square = (b * n + i) * d, none, none
            for t in range(0, d, lanes):
                x = vectors.load(flat, base + t) if d - t >= lanes else vectors.load_first(flat, base + t, d - t)
                total, square = vectors.fma(x, one, total), vectors.fma(x, x, square)
            whole = np.float64(vectors.summed(square))
            left = whole
            if centred:
                square, off = none, vectors.splat_like(flat, -np.float64(vectors.summed(total)) / d)
                for t in range(0, d, lanes):
                    if d - t >= lanes:
                        x = vectors.fma(off, one, vectors.load(flat, base + t))
                    else:  # what the last vector has beyond the node stays zero
                        x = vectors.load_first(flat, base + t, d - t)
                        x = vectors.fma(off, vectors.load_first(ones, 0, d - t), x)
                    square = vectors.fma(x, x, square)
                left = np.float64(vectors.summed(square))
            inverse[b, i] = 1 / np.sqrt(left) if left > NOWHERE * whole else 0.0
            for k in range(d):
                mean[b, k] += nodes[b, i, k]
        for k in range(d):
            mean[b, k] /= n


@njit(title="the posing of problems", **FLOATS)
def fill(products, towards, inverse, floor, mass, cost, supply, demand, begin, end):
    """Problems of images begin … end−1 and `way` classes: cost [B,way,n,m], supply [B,way,n] and demand [B,way,m], each
    with a total of `mass`.

    products [B,n,way·m+way] are of each node with the classes' directions, then with their means; `towards` [B,way·m]
    are of the image's mean with the classes' nodes.
    """
    way, n, m = cost.shape[1:]
    for b in range(begin, end):
        for w in range(way):
            total = 0.0
            for i in range(n):
                factor = inverse[b, i]
                for j in range(m):
                    cost[b, w, i, j] = 1 - products[b, i, w * m + j] * factor
                supply[b, w, i] = max(products[b, i, way * m + w], np.float32(0)) + floor
                total += np.float64(supply[b, w, i])
            scale = np.float32(mass / total)
            for i in range(n):
                supply[b, w, i] *= scale
            total = 0.0
            for j in range(m):
                demand[b, w, j] = max(towards[b, w * m + j], np.float32(0)) + floor
                total += np.float64(demand[b, w, j])
            scale = np.float32(mass / total)
            for j in range(m):
                demand[b, w, j] *= scale
