"""How experts are chosen. Used by reference.py and kernel.py, and by callers."""

from dataclasses import dataclass
from typing import Literal

# Of an expert's logit: "softmax" over all experts or "sigmoid", and then the best; or the best first, and then
# "top_softmax" over those or "top_sigmoid" of each; "sparsemixer": each of k experts by a softmax over the experts that
# come close to it (Liu et al., arXiv:2409.12136).
Scoring = Literal["softmax", "sigmoid", "top_softmax", "top_sigmoid", "sparsemixer"]


@dataclass(frozen=True)
class Rule:
    """k of X experts. With groups the experts lie in equal groups of neighbours and the best groups are chosen first:
    those with the best expert ("softmax", DeepSeek-V2) or the best two together ("sigmoid", DeepSeek-V3)."""

    top_k: int
    scoring: Scoring = "softmax"
    renormalise: bool = False  # the chosen weights are divided by their sum
    scale: float = 1.0  # of the weights in the end
    groups: int = 1
    top_groups: int = 1
    near: float = 0.0  # sparsemixer: how near a logit is to the largest, as a share of the larger magnitude
