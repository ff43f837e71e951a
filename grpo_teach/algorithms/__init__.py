"""Four algorithms, one skeleton. Read them in the order of the table below, side by side."""

from collections.abc import Callable
from typing import NamedTuple

from grpo_teach.algorithms import grpo, policy_gradient, ppo, sft
from grpo_teach.algorithms.grpo import GRPO
from grpo_teach.algorithms.policy_gradient import PolicyGradient
from grpo_teach.algorithms.ppo import PPO
from grpo_teach.algorithms.sft import SFT
from grpo_teach.settings import Settings


class Algorithm(NamedTuple):
    """An algorithm: its settings, its update, and how figures name and draw it.

    Colours are Okabe and Ito's, which colour-blind readers tell apart; the line's style does it without colour.
    """

    label: str
    Settings: type[Settings]
    update: Callable
    colour: str = "#56B4E9"
    line: str = "-"


ALGORITHMS = {
    "sft": Algorithm("SFT, rejection sampling", SFT, sft.update, "#009E73", "--"),
    "policy_gradient": Algorithm("policy gradient", PolicyGradient, policy_gradient.update, "#E69F00", "-."),
    "ppo": Algorithm("PPO", PPO, ppo.update, "#CC79A7", ":"),
    "grpo": Algorithm("GRPO", GRPO, grpo.update, "#0072B2", "-"),
}
