"""Settings as dataclasses that are checked when they are made, and those that all algorithms share."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grpo_teach.errors import InputError

SYNONYMS = {"shared": "head"}  # a value head's older name: records and checkpoints may hold it


def setting(default: Any, meaning: str, choices: tuple = (), most: float = math.inf, above: float | None = None) -> Any:
    """A field with its meaning, unit and the paper's value; the command line shows the same text.

    Args:
        default: gives the field its type too: whole numbers start at 1, or at a smaller default; others at 0.
        meaning: what ``--help`` says.
        choices: what is allowed; of a tuple, what each part may be.
        most: the largest value.
        above: a number that the value must exceed.
    """
    rules = {"meaning": meaning, "choices": choices, "above": above, "most": most}
    return dataclasses.field(default=default, metadata=rules)


def settings_of(kind: type) -> list[dataclasses.Field]:
    """The fields of a dataclass that :func:`setting` made."""
    return [field for field in dataclasses.fields(kind) if "meaning" in field.metadata]


@dataclass(frozen=True)
class Checked:
    """A dataclass that refuses a field of another type than its default's, or outside its choices and bounds.

    Raises:
        InputError: with the field's name.
    """

    def __post_init__(self):
        for field in settings_of(type(self)):
            value = getattr(self, field.name)
            if isinstance(value, str) and value in SYNONYMS and SYNONYMS[value] in field.metadata["choices"]:
                object.__setattr__(self, field.name, SYNONYMS[value])
            else:
                _check(field.name, value, field.default, field.metadata)


def _check(name: str, value: Any, default: Any, rules: Mapping[str, Any]) -> None:
    choices, above, most, wanted = rules["choices"], rules["above"], rules["most"], None
    kind, least = type(default), min(1, default) if type(default) is int else 0
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if choices and not all(part in choices for part in (value if kind is tuple else [value])):
        wanted = f"one of {', '.join(map(str, choices))}"
    elif kind is bool and not isinstance(value, bool):
        wanted = "true or false"
    elif kind is int and not (number and isinstance(value, int) and value >= least):
        wanted = f"a whole number of at least {least}"
    elif kind is float and not (number and math.isfinite(value) and value >= 0):
        wanted = "a finite number of at least 0"
    elif number and above is not None and not value > above:
        wanted = f"above {above:g}"
    elif number and value > most:
        wanted = f"at most {most}"
    if wanted:
        raise InputError(f"{name} must be {wanted}, got {value!r}")


@dataclass(frozen=True)
class Settings(Checked):
    """What every algorithm needs. The defaults suit the half-million-parameter policy, not a large model.

    Raises:
        InputError: for a size or choice that cannot work, with the field's name.
    """

    prompts: int = setting(16, "prompts a batch, P (DeepSeekMath: 16)")
    group_size: int = setting(16, "samples a prompt, G (DeepSeekMath: 64, R1: 16)")
    max_new_tokens: int = setting(32, "longest completion, tokens (DeepSeekMath: 1024)")
    temperature: float = setting(1.0, "of sampling and scoring, dimensionless (R1: 1)", above=0)
    learning_rate: float = setting(5e-4, "AdamW step size, dimensionless (DeepSeekMath: 1e-6, R1: 3e-6)", above=0)
    max_grad_norm: float = setting(1.0, "the gradient's norm is cut to this (no paper states it)", above=0)
    epochs: int = setting(1, "passes over each batch (DeepSeekMath: 1, lm-human-preferences: 4)")
    minibatches: int = setting(1, "optimizer steps a pass (DeepSeekMath: 1)")
    aggregation: str = setting(
        "token_mean",
        "how token losses become one number (DeepSeekMath: sequence_mean, DAPO: token_mean)",
        ("sequence_mean", "token_mean", "fixed_length"),
    )

    smallest_group = 1
    critic = None  # what predicts returns, for an algorithm that needs one: then these three are settings
    critic_learning_rate = 0.0
    critic_warmup = 0

    @property
    def uses_reference(self) -> bool:
        """Is there a KL term, so that the frozen reference is read?"""
        return False

    def __post_init__(self):
        super().__post_init__()
        if self.group_size < self.smallest_group:
            raise InputError(f"group_size must be at least {self.smallest_group}: one answer alone has no group")
        if self.minibatches > (rows := self.prompts * self.group_size):
            raise InputError(f"minibatches must not exceed the batch's rows, prompts * group_size = {rows}")
