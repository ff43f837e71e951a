r"""Dr. GRPO: GRPO without its two divisions, by the length of an answer and by the spread of its group's rewards.

.. math::
    J(\theta) = \mathbb{E}\Big[\frac{1}{G\,L}\sum_i \sum_t
    \min\big(\rho_{i,t} A_i,\ \mathrm{clip}(\rho_{i,t}, 1-\epsilon, 1+\epsilon) A_i\big)\Big],
    \quad A_i = R_i - \mathrm{mean}(R)

It is ``grpo.py`` with other settings; L is a constant, the longest completion allowed. Book Eq. (12.1) to (12.3).
Source: Dr. GRPO (arXiv 2503.20783). Departs from the paper in one point: there L is 1 in the text and the longest
completion in its code, which only rescales the learning rate (AdamW undoes even that).
"""

from dataclasses import dataclass

from grpo_teach.algorithms.grpo import GRPO
from grpo_teach.settings import setting


@dataclass(frozen=True)
class DrGRPO(GRPO):
    """Settings of Dr. GRPO: GRPO's, with other defaults."""

    scale: str = setting("none", "what advantages are divided by (Dr. GRPO: none)", ("std", "batch", "none"))
    aggregation: str = setting(
        "fixed_length",
        "how token losses become one number (Dr. GRPO: fixed_length)",
        ("sequence_mean", "token_mean", "fixed_length"),
    )
