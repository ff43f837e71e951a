"""A reward for the form of a completion, whatever it says."""

from grpo_teach.rewards.rules import tagged_answer

__all__ = ["format_reward"]


def format_reward(completion: str) -> float:
    """1.0 for one ``<think>…</think>`` and then one ``<answer>…</answer>``, white space alone around them; else 0.0.

    How it fails: it is paid for empty thoughts and for any answer, so alone it teaches the form and nothing else.

    Args:
        completion: the policy's text.
    Returns:
        1.0 or 0.0, whatever the text.
    Source: DeepSeek-R1 (arXiv 2501.12948) section 2.2.2, format reward.
    """
    return float(tagged_answer(completion) is not None)
