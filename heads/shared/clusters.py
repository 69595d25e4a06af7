"""Clusters of one image's local features, by scikit-learn: the node weights of DeepEMD's Table 2 that depend
on cluster sizes.
"""

import hashlib
import warnings

import numpy as np
import torch
from torch import Tensor

_MEMO: dict[bytes, np.ndarray] = {}  # an episode's images come again in others, and clustering one takes milliseconds
_ENTRIES = 1_000_000


def quantise(features: Tensor, normal: Tensor, clusters: int | None, nodes: str) -> tuple[Tensor, Tensor]:
    """Nodes and their weights after clustering each image: features [E,p,n,d] → the same shape, weights [E,p,n].

    Clusters are found on `normal`, the features as the cost sees them: by k-means into `clusters`, or by mean-shift
    when that is None. `nodes` is `centroids` (every node moves to its cluster's mean, weight one) or `positions` (nodes
    stay and weigh the size of their cluster).
    """
    flat = normal.detach().flatten(0, 1).float().cpu().numpy()
    labels = torch.from_numpy(np.stack([_labels(one, clusters) for one in flat])).to(features.device)
    member = torch.nn.functional.one_hot(labels, int(labels.max()) + 1).to(features).unflatten(0, features.shape[:2])
    sizes = member.sum(2)  # [E, p, clusters]
    if nodes == "positions":
        return features, (member * sizes[:, :, None]).sum(-1)
    means = member.mT @ features / sizes.clamp(min=1)[..., None]
    return member @ means, features.new_ones(features.shape[:3])


def _labels(features: np.ndarray, clusters: int | None) -> np.ndarray:
    """Cluster of each of n features [n,d]: a pure function, remembered."""
    key = hashlib.blake2b(features.tobytes() + str((features.shape, clusters)).encode(), digest_size=16).digest()
    if key not in _MEMO:
        if len(_MEMO) >= _ENTRIES:
            _MEMO.clear()
        _MEMO[key] = _cluster(features, clusters)
    return _MEMO[key].astype(np.int64)


def _cluster(features: np.ndarray, clusters: int | None) -> np.ndarray:
    from sklearn.cluster import KMeans, MeanShift, estimate_bandwidth
    from threadpoolctl import threadpool_limits

    if features.shape[1] > len(features):  # n points span n dimensions, and in these their distances are the same
        features = np.asarray(np.linalg.qr(features.T, mode="r")).T
    with threadpool_limits(1), warnings.catch_warnings():  # threads would only wait for each other on so few points
        warnings.simplefilter("ignore")  # fewer distinct features than clusters: then there are fewer clusters
        if clusters is None:
            width = estimate_bandwidth(features)
            clustering = MeanShift(bandwidth=width).fit(features) if width > 0 else None
        else:
            clustering = KMeans(min(clusters, len(features)), n_init=1, random_state=0).fit(features)
    return (np.zeros(len(features)) if clustering is None else clustering.labels_).astype(np.int16)
