"""What a training step takes: predicted by the byte ledger, and measured on two real steps that leave no trace."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from grpo_teach import records
from grpo_teach.algorithms import ALGORITHMS
from grpo_teach.errors import InputError
from grpo_teach.memory import Setup, Shape, predict
from grpo_teach.memory_measure import resident
from grpo_teach.memory_setup import critic_of
from grpo_teach.policy import Models, adapted_layers
from grpo_teach.rollout import logits_chunk, rows_a_pass
from grpo_teach.train import Trainer, adamw

__all__ = ["Cost", "allocated_bytes", "rehearse", "setup_of"]


@dataclass(frozen=True)
class Cost:
    """Bytes and seconds of a training step.

    Attributes:
        predicted_bytes, peak_phase: the byte ledger's; None for a model that it does not know.
        measured_bytes: on CUDA the allocator's peak in the step; on a CPU the peak resident memory of the process so
            far, Python included, or None where the system does not say.
        sampling_seconds, update_seconds: grading counts as sampling.
        tokens_a_second: generated tokens of a step a second of it.
    """

    predicted_bytes: int | None
    peak_phase: str | None
    measured_bytes: int | None
    sampling_seconds: float
    update_seconds: float
    tokens_a_second: float

    @property
    def seconds(self) -> float:
        """Of a whole step."""
        return self.sampling_seconds + self.update_seconds


class _EverySecondRight:
    """The task, with rewards that leave no row out."""

    def __init__(self, task):
        self.task = task

    def __getattr__(self, name: str):
        return getattr(self.task, name)

    def reward(self, completions: list[str], problems: list) -> torch.Tensor:
        return torch.arange(len(completions)).remainder(2).float().reshape(len(problems), -1)


def rehearse(
    policy,
    tokenizer,
    task,
    algorithm,
    config,
    prompt_tokens: int,
    seed: int = 0,
    optimizer: Callable = adamw,
    reference: bool = True,
) -> Cost:
    """Take two steps as training would, note what the second takes, and undo them.

    The first makes the optimizer's states and warms everything up. Every second answer counts as right, so that no
    row is left out: bytes and seconds are those of the dearest step. Weights and random states are afterwards as they
    were; gradients are dropped.

    Args:
        policy, tokenizer, task, algorithm, config, seed, optimizer, reference: as :func:`grpo_teach.train` takes them.
        prompt_tokens: of the longest prompt, for the ledger.
    Raises:
        TrainingDiverged: if a loss or gradient is not finite.
    """
    training, random_states, update_began = policy.training, records.random_states(), 0.0
    before = {name: weight.to("cpu", copy=True) for name, weight in Models(policy).learnt().items()}

    def update(*arguments):
        nonlocal update_began
        update_began = time.perf_counter()
        yield from algorithm.update(*arguments)

    try:
        models = Models.build(policy, getattr(config, "critic", None), reference)
        timed = algorithm._replace(update=update)
        trainer = Trainer(models, tokenizer, _EverySecondRight(task), timed, config, seed, optimizer)
        trainer.scaler = torch.amp.GradScaler(policy.device.type, enabled=False)  # it might skip a step
        trainer.train_step()
        if policy.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        tokens, began = trainer.tokens, time.perf_counter()
        trainer.train_step()
        ended = time.perf_counter()
        measured = allocated_bytes(policy.device) or (resident() or (None, None))[1]
    finally:
        Models(policy).load(before)
        policy.zero_grad()
        policy.train(training)
        records.restore_random_states(random_states)
    try:
        ledger = predict(setup_of(policy, algorithm, config, prompt_tokens, optimizer, reference))
        predicted, phase = ledger.terms["total"], ledger.peak[0]
    except InputError:  # a model of another build than Llama's, or an algorithm or optimizer of one's own
        predicted, phase = None, None
    return Cost(
        predicted_bytes=predicted,
        peak_phase=phase,
        measured_bytes=measured,
        sampling_seconds=update_began - began,
        update_seconds=ended - update_began,
        tokens_a_second=(trainer.tokens - tokens) / (ended - began),
    )


def allocated_bytes(device: torch.device) -> int | None:
    """The peak of CUDA's allocator since it was reset; a CPU has none that counts."""
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else None


def setup_of(policy, algorithm, config, prompt_tokens: int, optimizer: Callable = adamw, reference: bool = True):
    """The byte ledger's set-up of a run.

    Args:
        policy, algorithm, config, optimizer, reference: as :func:`grpo_teach.train` takes them.
        prompt_tokens: of the longest prompt.
    Raises:
        InputError: if the ledger does not know the model, the algorithm or the optimizer.
    """
    adapter = bool(adapted_layers(policy))
    four_bit = any(getattr(part, "quant_state", None) is not None for part in policy.modules())
    given = {"rank": policy.peft_config["default"].r} if adapter else {}
    return Setup(
        model=Shape.of(policy.config),
        algorithm=next((name for name, known in ALGORITHMS.items() if known is algorithm), algorithm.label),
        method="qlora" if four_bit else "lora" if adapter else "full",
        critic=critic_of(config),
        reference=("adapter" if adapter else "copy") if reference else "none",
        dtype=str(policy.dtype).removeprefix("torch."),
        optimizer=optimizer.__name__,
        prompts=config.prompts,
        group_size=config.group_size,
        prompt_tokens=prompt_tokens,
        max_new_tokens=config.max_new_tokens,
        rows_a_pass=rows_a_pass(policy),
        padded=config.prompts > 1,
        chunk=logits_chunk(policy),
        checkpointing=getattr(policy, "recompute_passes", False),
        **given,
    )
