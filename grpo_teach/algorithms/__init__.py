"""Four algorithms, one skeleton. Read them in this order, side by side."""

from collections.abc import Callable
from typing import NamedTuple

from grpo_teach.algorithms import grpo, policy_gradient, ppo, sft
from grpo_teach.algorithms.grpo import GRPO
from grpo_teach.algorithms.policy_gradient import PolicyGradient
from grpo_teach.algorithms.ppo import PPO
from grpo_teach.algorithms.sft import SFT
from grpo_teach.settings import Settings

__all__ = ["ALGORITHMS", "GRPO", "PPO", "SFT", "Algorithm", "PolicyGradient", "Settings"]


class Algorithm(NamedTuple):
    """An algorithm: its name in figures, its settings and its update."""

    label: str
    Settings: type[Settings]
    update: Callable


ALGORITHMS = {
    "sft": Algorithm("SFT, rejection sampling", SFT, sft.update),
    "policy_gradient": Algorithm("policy gradient", PolicyGradient, policy_gradient.update),
    "ppo": Algorithm("PPO", PPO, ppo.update),
    "grpo": Algorithm("GRPO", GRPO, grpo.update),
}
