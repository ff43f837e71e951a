"""Four formulas to play with while a kernel runs: sliders, and a picture of what the package's function returns."""

from __future__ import annotations

import torch

from grpo_teach.advantages import gae, group_relative_advantages
from grpo_teach.errors import needed
from grpo_teach.figures.curves import COLOURS, as_png
from grpo_teach.figures.live import Live, controls, picture, plain_axes
from grpo_teach.losses import clipped_policy_loss, kl_k1, kl_k2, kl_k3

__all__ = ["Played", "play_advantages", "play_clip", "play_gae", "play_kl"]

BLUE, ORANGE, GREY = COLOURS["grpo"], "#D55E00", "0.35"
VALUES = [0.25, 0.25, 0.6, 0.6, 0.6, 0.8, 0.8, 0.8]  # a made-up critic, which hopes more from the third token on


class Played(Live):
    """Controls, and under them a picture that follows.

    Args:
        draw: called with the axes and the controls' values by name.
        wanted: what :func:`controls` takes.
    Attributes:
        controls: the widgets by name.
        axes: of the last picture.
    """

    def __init__(self, draw, **wanted):
        self.draw, self.controls, self.picture = draw, controls(**wanted), picture()
        self.view = needed("ipywidgets").VBox([*self.controls.values(), self.picture])
        for control in self.controls.values():
            control.observe(self._redraw, "value")
        self._redraw()

    def _redraw(self, change=None) -> None:
        figure, (self.axes,) = plain_axes()
        self.draw(self.axes, **{name: control.value for name, control in self.controls.items()})
        self.picture.value = as_png(figure).data


def play_clip() -> Played:
    """One token's objective, ``-clipped_policy_loss``, against the ratio: thick where it has a gradient."""

    def draw(axes, advantage, clip_low, clip_high):
        ratios = torch.linspace(0.02, 2, 199)
        logprobs = ratios.log().unsqueeze(0).requires_grad_()
        same = torch.zeros_like(logprobs), torch.full_like(logprobs, advantage)
        objective = -clipped_policy_loss(logprobs, *same, clip_low, clip_high)
        (slope,) = torch.autograd.grad(objective.sum(), logprobs)
        objective = objective.detach()[0]
        axes.axvspan(1 - clip_low, 1 + clip_high, color="0.92")
        axes.plot(ratios, objective, color=GREY, linestyle="--", label="no gradient")
        axes.plot(ratios, objective.where(slope[0] != 0, torch.nan), color=BLUE, linewidth=4, label="gradient")
        axes.set(xlabel="ratio", ylabel="objective of one token", ylim=(-3, 3))
        axes.legend(frameon=False, loc="upper left")

    clip = 0.2, (0.0, 1.0, 0.05)
    return Played(draw, advantage=(1.0, (-1.5, 1.5, 0.1)), clip_low=clip, clip_high=clip)


def play_advantages() -> Played:
    """``group_relative_advantages`` of one group: some answers right, the others of reward 0."""

    def draw(axes, group_size, right, worth, scale):
        rewards = torch.zeros(1, group_size)
        rewards[:, :right] = worth
        advantages = group_relative_advantages(rewards, scale)[0].tolist()
        axes.bar(range(group_size), advantages, color=[BLUE if a > 0 else ORANGE for a in advantages])
        axes.axhline(0, color=GREY, linewidth=1)
        axes.set_xticks(range(group_size), [f"{reward:g}" for reward in rewards[0].tolist()], fontsize=8)
        axes.set(xlabel="reward of each answer", ylabel="advantage", ylim=(-4, 4))

    wanted = {"right": (1, (0, 16)), "worth": (1.0, (0.01, 1.0, 0.01)), "scale": ("std", ["std", "none"])}
    return Played(draw, group_size=(8, (2, 16)), **wanted)


def play_kl() -> Played:
    """``kl_k1``, ``kl_k2`` and ``kl_k3`` where there are two tokens, A and B: each one's value, and their mean."""

    def draw(axes, policy, reference):
        chances = torch.tensor([[policy, 1 - policy], [reference, 1 - reference]])
        logprobs, ref_logprobs = chances.log().unsqueeze(1)
        values = torch.cat([estimate(logprobs, ref_logprobs) for estimate in (kl_k1, kl_k2, kl_k3)])  # [3, tokens]
        bars = *values.T, values @ chances[0]  # by token, and the mean
        looks = ("if A is drawn", BLUE), ("if B is drawn", ORANGE), ("mean", GREY)
        for shift, heights, (label, colour) in zip((-0.25, 0, 0.25), bars, looks, strict=True):
            axes.bar([place + shift for place in range(3)], heights.tolist(), 0.22, color=colour, label=label)
        exact = torch.distributions.kl_divergence(*map(torch.distributions.Categorical, chances))
        axes.axhline(exact, color="black", linestyle="--", linewidth=1, label="KL divergence")
        axes.set_xticks(range(3), ["k1", "k2", "k3"])
        axes.set(ylabel="nats")
        axes.legend(frameon=False, fontsize=8)

    return Played(draw, policy=(0.9, (0.01, 0.99, 0.01)), reference=(0.4, (0.01, 0.99, 0.01)))


def play_gae() -> Played:
    """``gae`` of eight tokens with one reward at the end, for a made-up critic: its values, advantages and targets."""

    def draw(axes, lam, gamma, reward):
        values, rewards = torch.tensor([VALUES]), torch.zeros(1, len(VALUES))
        rewards[:, -1] = reward
        advantages, returns = gae(rewards, values, torch.ones_like(values), gamma, lam)
        tokens = range(1, len(VALUES) + 1)
        axes.bar(tokens, advantages[0].tolist(), color=BLUE, label="advantage")
        axes.step(tokens, values[0], where="mid", color=ORANGE, label="value")
        axes.step(tokens, returns[0], where="mid", color=GREY, linestyle="--", label="target: advantage + value")
        axes.set(xlabel="token", ylabel="units of reward", ylim=(-1.05, 1.4))
        axes.legend(frameon=False, fontsize=8, loc="upper left", ncols=3)

    return Played(draw, lam=(0.95, (0.0, 1.0, 0.05)), gamma=(1.0, (0.8, 1.0, 0.01)), reward=(1.0, (0.0, 1.0, 0.1)))
