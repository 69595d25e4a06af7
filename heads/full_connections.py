"""Every local feature with every other, without matching: the rows of DeepEMD's Table 2 that have no EMD."""

from torch import Tensor

from fewshot_cli.heads.shared.local import LocalHead, WeightedOptions, cosines, nodes, weigh


class FullConnections(LocalHead[WeightedOptions]):
    """Logit = T · Σ_ij s_i d_j (1 − c_ij) with node weights s, d that add up to one (DeepEMD, CVPR 2020, Table 2).

    With equal weights it is the plain average of all pairwise cosines; with cross-reference weights, these act as
    attention.
    """

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """support [E,way,shot,d,h,w], query [E,q,d,h,w] → [E,q,way]; shots are averaged into one map."""
        o = self.options
        query, proto, supply, demand = weigh(nodes(query, o.pyramid), nodes(support.mean(2), o.pyramid), o)
        total = supply.shape[-1]  # of either side
        similar = cosines(query, proto, o.norm)  # [E, q, way, n, m]
        weighed = (similar @ (demand / total)[..., None])[..., 0]
        return o.temperature * (weighed * supply / total).sum(-1)
