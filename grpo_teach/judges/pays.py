"""What a variant's training is paid by, and by which algorithm: the task's own reward, or one that a study turned."""

from __future__ import annotations

from collections.abc import Callable

from grpo_teach.algorithms import ALGORITHMS, Algorithm
from grpo_teach.algorithms.later import LATER
from grpo_teach.algorithms.later.grpo_process import grpo_process
from grpo_teach.judges.learned import Judged, judge_of_steps
from grpo_teach.judges.verifiers import OneOfEach, Planted, Unreliable
from grpo_teach.rewards.process import chain_sum_steps
from grpo_teach.rollout import Rollouts

__all__ = ["algorithm_of", "reward_of", "step_judge"]

STEP_RULES = ("asked", "any")


def reward_of(variant, policy, tokenizer, task, seed: int) -> Callable | None:
    """The reward that a variant of a study asks for; None for the task's own."""
    errors = [variant.wrong_rewards + errs for errs in (variant.false_positives, variant.false_negatives)]
    if any(errors):
        return Unreliable(task, *errors)
    if variant.best_of_n:
        return OneOfEach(task)
    if variant.planted:
        return Planted(task, variant.planted)
    if variant.judged:
        return Judged(policy, tokenizer, task, variant.judged, variant.taste, seed)
    return None


def algorithm_of(variant, policy, tokenizer, task, seed: int) -> Algorithm:
    """The variant's algorithm; GRPO with rewards for steps where it asks for them."""
    if variant.steps_paid is None:
        return (ALGORITHMS | LATER)[variant.algorithm]
    if variant.steps_paid in STEP_RULES:
        return grpo_process(step_judge(variant.steps_paid, tokenizer))
    return grpo_process(judge_of_steps(policy, tokenizer, task, variant.steps_paid, seed).judge)


def step_judge(kind: str, tokenizer) -> Callable[[Rollouts], list]:
    """Who judges the steps of a chain sum.

    Args:
        kind: ``"asked"``, a rule that knows which step is due; ``"any"``, one that takes any right sum.
        tokenizer: the policy's.
    """

    def judge(rollouts: Rollouts) -> list:
        prompts = tokenizer.batch_decode(rollouts.prompt_ids, skip_special_tokens=True)
        both = zip(prompts, rollouts.texts(tokenizer), strict=True)
        return [chain_sum_steps(prompt, text, asked=kind == "asked") for prompt, text in both]

    return judge
