"""Dense classification (Lifchitz et al., CVPR 2019): each local feature predicts, the probabilities are averaged."""

import math

from torch import Tensor

from fewshot_cli.heads.shared.local import LocalHead, LocalOptions, cosines, nodes


class Fusion(LocalHead[LocalOptions]):
    """Logit = log of the mean, over the query's local features, of softmax(T·cos(feature, prototype)).

    A class's prototype is the mean of all local features of its shots (row Prediction Fusion of DeepEMD's Table 1).
    """

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """support [E,way,shot,d,h,w], query [E,q,d,h,w] → [E,q,way]."""
        o = self.options
        prototype = nodes(support, o.pyramid).mean((2, 3))
        similar = cosines(nodes(query, o.pyramid), prototype[:, :, None], o.norm)[..., 0]  # [E, q, way, n]
        return (o.temperature * similar).log_softmax(2).logsumexp(-1) - math.log(similar.shape[-1])
