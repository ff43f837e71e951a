"""The settings that all algorithms share, checked when they are made."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from grpo_teach.errors import InputError

__all__ = ["Settings", "setting"]


def setting(default: Any, meaning: str, choices: tuple = (), most: float = math.inf) -> Any:
    """A field with its meaning, unit and the paper's value; the command line shows the same text."""
    return dataclasses.field(default=default, metadata={"meaning": meaning, "choices": choices, "most": most})


@dataclass(frozen=True)
class Settings:
    """What every algorithm needs. The defaults suit the half-million-parameter policy, not a large model.

    Raises:
        InputError: for a size or choice that cannot work, with the field's name.
    """

    prompts: int = setting(16, "prompts a batch, P (DeepSeekMath: 16)")
    group_size: int = setting(16, "samples a prompt, G (DeepSeekMath: 64, R1: 16)")
    max_new_tokens: int = setting(32, "longest completion, tokens (DeepSeekMath: 1024)")
    temperature: float = setting(1.0, "of sampling and scoring, dimensionless (R1: 1)")
    learning_rate: float = setting(5e-4, "AdamW step size, dimensionless (DeepSeekMath: 1e-6, R1: 3e-6)")
    max_grad_norm: float = setting(1.0, "the gradient's norm is cut to this (no paper states it)")
    epochs: int = setting(1, "passes over each batch (DeepSeekMath: 1; PPO for language models: 4)")
    minibatches: int = setting(1, "optimizer steps a pass (DeepSeekMath: 1)")
    aggregation: str = setting(
        "token_mean",
        "how token losses become one number (DeepSeekMath: sequence_mean, DAPO: token_mean)",
        ("sequence_mean", "token_mean", "fixed_length"),
    )

    smallest_group = 1

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, choices = getattr(self, field.name), field.metadata["choices"]
            if choices and value not in choices:
                raise InputError(f"{field.name} must be one of {', '.join(map(str, choices))}; got {value!r}")
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if isinstance(field.default, int) and (not number or not isinstance(value, int) or value < 1):
                raise InputError(f"{field.name} must be a whole number of at least 1, got {value!r}")
            if isinstance(field.default, float) and not (number and math.isfinite(value) and value >= 0):
                raise InputError(f"{field.name} must be a finite number of at least 0, got {value!r}")
            if isinstance(field.default, float) and value > field.metadata["most"]:
                raise InputError(f"{field.name} must be at most {field.metadata['most']}, got {value!r}")
        for name in ("temperature", "learning_rate", "max_grad_norm"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} must be above 0, got {getattr(self, name)!r}")
        if self.group_size < self.smallest_group:
            raise InputError(f"group_size must be at least {self.smallest_group}: one answer alone has no group")
        if self.minibatches > self.prompts * self.group_size:
            raise InputError(
                f"minibatches ({self.minibatches}) must not exceed the batch's rows "
                f"(prompts * group_size = {self.prompts * self.group_size})"
            )
