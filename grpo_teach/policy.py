"""The policy, the critic and the reference, and saving and loading them."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn

from grpo_teach import records
from grpo_teach.errors import InputError, in_one_line
from grpo_teach.settings import SYNONYMS
from grpo_teach.tasks.tiny import tiny_policy, tiny_tokenizer  # noqa: F401  where they stood once

BASES = Path(__file__).parent / "data"
CRITICS = ("head", "detached", "lora", "separate")


def load_base(task: str = "chain_sum"):
    """The tiny pretrained policy that ships with the package for a task.

    Args:
        task: a name in ``TASKS``.
    Returns:
        ``(policy, tokenizer)``: a ``LlamaForCausalLM`` in float32 on the CPU, and its tokenizer.
    Raises:
        InputError: if no base ships under that name.
    """
    if not (BASES / task / "config.json").exists():
        known = sorted(path.parent.name for path in BASES.glob("*/config.json"))
        raise InputError(f"no base ships under the name {task!r}; there are: {', '.join(known)}")
    with _no_bars():
        return load_policy(BASES / task)


def save_policy(policy, tokenizer, folder: str | Path) -> None:
    """Write policy and tokenizer to a folder that :func:`load_policy` reads.

    Raises:
        InputError: if that fails; what the folder held is then still there.
    """
    with records.replacing(Path(folder)) as new, _no_bars():
        policy.save_pretrained(new)
        tokenizer.save_pretrained(new)


def load_policy(path: str | Path):
    """Load a policy and its tokenizer from a folder (as ``save_pretrained`` writes it) or a model's name.

    Returns:
        ``(policy, tokenizer)``, the policy in evaluation mode.
    Raises:
        InputError: if there is no readable model under that name.
    """
    with in_one_line(f"cannot load a policy from {path}"):
        policy = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return policy.eval(), load_tokenizer(path)


def load_tokenizer(path: str | Path):
    """Load a tokenizer alone, from where :func:`load_policy` would.

    Raises:
        InputError: if there is none.
    """
    with in_one_line(f"cannot load a tokenizer from {path}"):
        return transformers.AutoTokenizer.from_pretrained(path, padding_side="left")


@contextmanager
def _no_bars():
    """Half a million parameters are loaded before a bar can be read."""
    wanted = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if wanted:
            transformers.utils.logging.enable_progress_bar()


def shared_copy(module: nn.Module) -> nn.Module:
    """A copy with its own of what learns, and the very tensors of what is frozen.

    Beside an adapter that is nearly everything, 4-bit weights with their scales included, so it costs a few MB.
    """
    frozen = [tensor for tensor in (*module.parameters(), *module.buffers()) if not tensor.requires_grad]
    frozen += [part.quant_state for part in module.modules() if hasattr(part, "quant_state")]
    return copy.deepcopy(module, {id(thing): thing for thing in frozen})


def adapted_layers(module: nn.Module) -> list[str]:
    """Names of the layers that an adapter of peft wraps."""
    return [name for name, part in module.named_modules() if hasattr(part, "base_layer")]


def frozen_copy(policy: nn.Module) -> nn.Module:
    """A copy that never learns, the reference policy: the policy without its adapter, if it has one.

    Beside an adapter it shares the policy's frozen weights.
    """
    reference = shared_copy(policy)
    for name in adapted_layers(reference):
        parent, _, child = name.rpartition(".")
        setattr(reference.get_submodule(parent), child, reference.get_submodule(name).base_layer)
    return reference.requires_grad_(False).eval()


class Critic(nn.Module):
    """Predicts the return from each token on, in units of reward.

    ``kind="head"`` is a linear value head on the policy's own last hidden state, so that both learn one trunk;
    ``kind="detached"`` is the same head without a way back: its loss leaves the trunk to the policy;
    ``kind="separate"`` is a copy of the policy's trunk with a head of its own: a second model of the same size;
    ``kind="lora"``, for a policy with an adapter, shares the trunk's frozen weights and copies only the adapter.
    The head starts at 0, so that with ``lam=1`` the first advantages are the plain returns.
    Source: Ouyang et al. (arXiv 2203.02155) for the separate critic; book Eq. (4.6).
    """

    def __init__(self, policy: nn.Module, kind: str = "head"):
        super().__init__()
        kind = SYNONYMS.get(kind, kind)
        if kind not in CRITICS:
            raise InputError(f"critic must be one of {', '.join(CRITICS)}, got {kind!r}")
        if kind == "lora" and not adapted_layers(policy):
            raise InputError("a critic of kind 'lora' needs a policy with an adapter: method lora or qlora")
        self.trunk, self.detached = None, kind == "detached"
        if kind in ("lora", "separate"):
            self.trunk = (shared_copy if kind == "lora" else copy.deepcopy)(policy.get_decoder())
        self.head = nn.Linear(policy.config.hidden_size, 1, device=policy.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


@dataclass
class Models:
    """The models an algorithm works with: up to three of PPO's four (the fourth, a reward model, is a rule here).

    Attributes:
        policy: the one that samples and learns.
        critic: predicts returns; None for algorithms without one.
        reference: the frozen policy that a KL term measures distance to; None if nothing asks for it.
    """

    policy: nn.Module
    critic: Critic | None = None
    reference: nn.Module | None = None

    @classmethod
    def build(cls, policy: nn.Module, critic: str | None = None, reference: bool = True) -> Models:
        """The policy, a frozen copy of it as reference, and a critic of the given kind (None: no critic)."""
        return cls(policy, Critic(policy, critic) if critic else None, frozen_copy(policy) if reference else None)

    def trainable(self) -> nn.ModuleDict:
        """The modules that learn, by name."""
        modules = {"policy": self.policy, "critic": self.critic}
        return nn.ModuleDict({name: module for name, module in modules.items() if module is not None})

    def learnt(self) -> dict[str, Tensor]:
        """What training changes, by name, without gradient: every weight, or beside an adapter only the adapter's."""
        named = self.trainable().named_parameters(remove_duplicate=False)  # tied weights under both names
        return {name: weight.detach() for name, weight in named if weight.requires_grad}

    def load(self, learnt: dict[str, Tensor]) -> None:
        """Take up what :meth:`learnt` gave.

        Raises:
            InputError: if it belongs to other models.
        """
        mine = self.learnt()
        if {name: w.shape for name, w in mine.items()} != {name: w.shape for name, w in learnt.items()}:
            raise InputError("the checkpoint's weights belong to a model of another shape")
        for name, weight in mine.items():
            weight.copy_(learnt[name])
