"""Make the base policy: text in which most answers are guessed and some are worked out.

The mix is the whole point. On the chain sum four texts in five are a guess, a digit at random, right one time in
ten; one in five is a worked scratchpad with a few slips. So the base knows how to think, seldom does, and no better
than what it has read. (In the first half of pretraining more of the texts are worked out: that is when it learns to
calculate.)
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch

from grpo_teach.algorithms import SFT
from grpo_teach.policy import load_base, tiny_policy, tiny_tokenizer
from grpo_teach.supervise import supervise
from grpo_teach.tasks import Addition, ChainSum, Equation, Miniature, Programs, Task
from grpo_teach.tasks.miniature import STYLES

__all__ = ["MIXES", "Mix", "base_of", "pretrain"]


@dataclass(frozen=True)
class Mix:
    """What a base reads.

    Attributes:
        task: whose problems.
        thinking: share of worked scratchpads, of right programs where those are the answers; the rest are guesses.
        slip: probability of a mistake in a step of a scratchpad.
        steps: how many batches suffice to learn it.
        batch: texts a step.
        width: hidden size of the policy.
    """

    task: Task
    thinking: float = 0.2
    slip: float = 0.05
    steps: int = 1500
    batch: int = 256
    width: int = 128


MIXES = {
    "chain_sum": Mix(ChainSum((3, 4, 5, 6))),
    # Rare thinking that is nearly always right: a weak base that can be taught. With more slips and fewer steps the
    # share that thinks still climbs in training, but the arithmetic breaks.
    "addition": Mix(Addition(3), thinking=0.05, slip=0.02, steps=1000),
    "equation": Mix(Equation(), thinking=0.1, slip=0.02, steps=2000),
    "programs": Mix(Programs(), thinking=0.2, slip=0.05, steps=2400, batch=128),
}
# R1's base, and those that lack one thing: how their authors write stands in the style, slips included.
MIXES |= {
    "miniature" if name == "mixed" else f"miniature_{name}": Mix(Miniature("both", style), slip=0.0, width=64)
    for name, style in STYLES.items()
}


def pretrain(
    steps: int | None = None,
    seed: int = 0,
    mix: Mix = MIXES["chain_sum"],
    batch: int | None = None,
    learning_rate: float = 2e-3,
    policy=None,
    hidden_size: int | None = None,
    progress: bool = True,
):
    """Pretrain a tiny policy by SFT on the mix, with a linearly falling learning rate.

    Args:
        steps: optimizer steps; without a number, the mix's own.
        seed: of weights, problems and mix. The same seed gives the same weights on one machine.
        mix: what to read.
        batch: texts a step; without a number, the mix's own.
        learning_rate: at the start; falls to 0.
        policy: a policy of the task's vocabulary that reads on; without one, a tiny one with random weights.
        hidden_size: width of that tiny one, without a number the mix's own; its MLP is four times as wide.
        progress: show a bar with the loss.
    Returns:
        ``(policy, tokenizer)``.
    """
    torch.manual_seed(seed)
    task, fresh = mix.task, policy is None
    steps, batch, width = mix.steps if steps is None else steps, batch or mix.batch, hidden_size or mix.width
    tokenizer = tiny_tokenizer(task.characters)
    policy = tiny_policy(tokenizer, width, intermediate_size=4 * width) if fresh else policy

    def draw(done: float, generator: torch.Generator) -> tuple[list[str], list[str]]:
        problems = task.sample(batch, generator)
        # The first half teaches to calculate: all scratchpads at first, falling to the mix's own share.
        share = max(mix.thinking, 1 - (1 - mix.thinking) * 2 * done) if fresh else mix.thinking
        thinking = torch.rand(batch, generator=generator) < share
        guesses = task.guess(problems, generator)
        texts = [
            task.demonstration(problem, mix.slip, generator) if think else guess
            for problem, think, guess in zip(problems, thinking, guesses, strict=True)
        ]
        return [problem.prompt for problem in problems], texts

    def optimizer(parameters, learning_rate: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01, fused=True)

    falling = {"schedule": lambda done: 1 - done, "seed": seed, "optimizer": optimizer}
    config = SFT(learning_rate=learning_rate)
    supervise(policy, tokenizer, draw, config, steps=steps, **falling, name="pretraining", progress=progress)
    return policy, tokenizer


@functools.cache
def base_of(name: str, task: str, thinking: float | None):
    """``(policy, tokenizer)`` of a shipped base, to be copied before it is trained.

    Args:
        name: of the base.
        task: whose mix it reads if it is to think more or less often.
        thinking: that share; None leaves the base as it is.
    """
    if thinking is None:
        return load_base(name)
    mix = replace(MIXES[task], thinking=thinking)
    return pretrain(60, mix=mix, learning_rate=5e-4, policy=load_base(name)[0], progress=False)
