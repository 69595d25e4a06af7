"""DN4 (Li et al., CVPR 2019): each local feature's nearest neighbours among all local features of a class."""

from pydantic import Field
from torch import Tensor

from fewshot_cli.errors import DataError
from fewshot_cli.heads.shared.local import LocalHead, LocalOptions, cosines, nodes


class KNNOptions(LocalOptions):
    """How many neighbours count."""

    k: int = Field(3, ge=1, le=10_000, description="nearest neighbours of each local feature")


class KNN(LocalHead[KNNOptions]):
    """Logit = T · mean over the query's local features of the mean of their k largest cosines with the class's.

    The class's pool holds the local features of all its shots (image-to-class, DN4 eq. 3; row KNN of DeepEMD's Table
    1).
    """

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """support [E,way,shot,d,h,w], query [E,q,d,h,w] → [E,q,way]. Raises `DataError` when a pool is smaller
        than k.
        """
        o = self.options
        pool = nodes(support, o.pyramid).flatten(2, 3)
        if pool.shape[2] < o.k:
            raise DataError(
                f"head.k: {o.k} nearest neighbours were asked for, a class has {pool.shape[2]} local features; "
                "lower head.k, or take more shots or patches"
            )
        similar = cosines(nodes(query, o.pyramid), pool, o.norm)  # [E, q, way, n, m]
        return o.temperature * similar.topk(o.k, -1).values.mean((-2, -1))

    def elements(self, way: int, shot: int, query: int, positions: int) -> int:
        """Elements of an episode's cosines."""
        return shot * super().elements(way, shot, query, positions)
