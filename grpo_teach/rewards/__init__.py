"""Rewards: functions of a completion and the right answer, ``(str, str) -> float``, and one of a program's tests."""

from grpo_teach.rewards.code import code_reward
from grpo_teach.rewards.numbers import coin, last_number, lenient_accuracy, strict_accuracy
from grpo_teach.rewards.rules import accuracy, extract_answer, tagged_answer
from grpo_teach.rewards.tags import format_reward, number_reward
