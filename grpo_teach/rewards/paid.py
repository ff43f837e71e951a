"""What a reward function pays a batch, and who is to blame where it pays something else than numbers."""

from __future__ import annotations

import inspect
import traceback
import zlib
from collections.abc import Callable

import torch
from torch import Tensor

from grpo_teach.errors import InputError

__all__ = ["paid", "reward_identity", "reward_name"]


def reward_name(reward: Callable) -> str:
    """A reward function's name, for messages."""
    return getattr(reward, "__qualname__", type(reward).__name__)


def reward_identity(reward: Callable) -> dict[str, str]:
    """What tells two rewards apart: the name, and a checksum of the source where there is one.

    The source is the whole file that defines it, with what it calls there; of a notebook or script, where the run
    itself may stand, only the function's.
    """
    code, found = getattr(reward, "func", reward), {"reward": reward_name(reward)}  # a partial's function
    code = code if inspect.isroutine(code) else type(code)
    try:
        source = inspect.getsource(code) if code.__module__ == "__main__" else "".join(inspect.findsource(code)[0])
    except (OSError, TypeError):  # typed at a prompt, or no Python
        return found
    return found | {"reward_source": f"{zlib.crc32(source.encode()):08x}"}


def paid(reward: Callable, completions: list[str], problems: list) -> Tensor:
    """[P, G] what the completions are paid; anything but one finite number for each is refused.

    Args:
        reward: ``(completions, problems) -> [P, G]``.
        completions: P * G texts in prompt order.
        problems: P of them.
    Raises:
        InputError: if the reward raises or calls ``exit``, or gives a string, another shape, a complex number, NaN,
            infinity, or what 32 bits cannot square. The one line has its name and, where one completion alone brings it
            about, that completion. What the reward itself says in an InputError, a package that is missing for
            instance, goes through as it is.
    """
    try:
        given = reward(list(completions), list(problems))  # copies: it may change what it was given
        return _numbers(given, len(problems), len(completions) // len(problems))
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # a reward is anybody's code, and may run a policy's
        said = " ".join(traceback.format_exception_only(error)[-1].split()).removeprefix(f"{__name__}._NotNumbers: ")
        raise InputError(
            f"the reward {reward_name(reward)} failed: {said}{_blame(reward, completions, problems)}"
        ) from error


class _NotNumbers(Exception):
    """A reward gave something else than one finite number for each completion."""


def _numbers(given, prompts: int, group: int) -> Tensor:
    try:
        rewards = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _NotNumbers(f"it gave no numbers ({error})") from error
    if rewards.shape != (prompts, group):
        raise _NotNumbers(f"it gave the shape {tuple(rewards.shape)}, not {(prompts, group)}, row p problem p's")
    if rewards.is_complex():
        raise _NotNumbers("it gave complex numbers")
    rewards = rewards if isinstance(given, Tensor) and given.is_floating_point() else rewards.float()
    if not torch.isfinite(rewards).all():
        raise _NotNumbers("it gave NaN or infinite rewards")
    if not torch.isfinite(rewards.float().square().sum()):  # a group's deviation would be infinite
        raise _NotNumbers("it gave rewards that 32 bits cannot square")
    return rewards.detach()


def _blame(reward: Callable, completions: list[str], problems: list) -> str:
    """The first completion that brings it about when it is asked alone; nothing if none does."""
    group = len(completions) // len(problems)
    for i, completion in enumerate(completions):
        try:
            _numbers(reward([completion], [problems[i // group]]), 1, 1)
        except (Exception, SystemExit):
            return f"; the completion is {completion!r}"
    return ""
