"""Rewards: functions of a completion and the right answer, ``(str, str) -> float``."""

from grpo_teach.rewards.code import code_reward
from grpo_teach.rewards.format import format_reward
from grpo_teach.rewards.numbers import coin, last_number, lenient_accuracy, number_reward, strict_accuracy
from grpo_teach.rewards.rules import accuracy, extract_answer, tagged_answer

__all__ = ["accuracy", "code_reward", "coin", "extract_answer", "format_reward", "last_number", "lenient_accuracy"]
__all__ += ["number_reward", "strict_accuracy", "tagged_answer"]
