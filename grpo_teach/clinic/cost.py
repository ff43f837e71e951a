"""What a training step takes: predicted by the byte ledger, and measured on two real steps that leave no trace."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from grpo_teach import records
from grpo_teach.algorithms import ALGORITHMS
from grpo_teach.errors import InputError
from grpo_teach.large import Options
from grpo_teach.memory import Setup, Shape, predict
from grpo_teach.memory.measure import resident
from grpo_teach.policy import Models
from grpo_teach.train import Trainer, adamw

__all__ = ["Cost", "allocated_bytes", "every_second", "rehearse", "setup_of"]


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


def every_second(completions: list[str], problems: list) -> torch.Tensor:
    """[P, G] rewards that leave no row out: every second answer counts as right."""
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
    evaluated: int = 0,
) -> Cost:
    """Take two steps as training would, note what the second takes, and undo them.

    The first makes the optimizer's states and warms everything up. Every second answer counts as right, so that no
    row is left out: bytes and seconds are those of the dearest step. Weights and random states are afterwards as they
    were; gradients are dropped.

    Args:
        policy, tokenizer, task, algorithm, config, seed, optimizer, reference: as :func:`grpo_teach.train` takes them.
        prompt_tokens, evaluated: for the ledger, as :meth:`Setup.of` takes them.
    Raises:
        TrainingDiverged: if a loss or gradient is not finite.
    """
    training, random_states = policy.training, records.random_states()
    before = {name: weight.to("cpu", copy=True) for name, weight in Models(policy).learnt().items()}
    try:
        models = Models.build(policy, config.critic, reference)
        run = {"tokenizer": tokenizer, "task": task, "reward": every_second, "seed": seed}
        trainer = Trainer(models, algorithm, config, optimizer, **run)
        trainer.scaler = torch.amp.GradScaler(policy.device.type, enabled=False)  # it might skip a step
        trainer.train_step()
        if policy.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        problems, rollouts = trainer.sample()
        texts = rollouts.texts(tokenizer)
        rewards = trainer.rewarded(texts, problems)
        trainer.look(rollouts, texts, rewards)
        update_began = time.perf_counter()
        trainer.learn(rollouts, rewards)
        ended = time.perf_counter()
        measured = allocated_bytes(policy.device) or (resident() or (None, None))[1]
    finally:
        Models(policy).load(before)
        policy.zero_grad()
        policy.train(training)
        records.restore_random_states(random_states)
    try:
        ledger = predict(setup_of(policy, algorithm, config, prompt_tokens, optimizer, reference, evaluated))
        predicted, phase = ledger.terms["total"], ledger.peak[0]
    except InputError:  # a model of another build than Llama's, or an algorithm or optimizer of one's own
        predicted, phase = None, None
    return Cost(
        predicted_bytes=predicted,
        peak_phase=phase,
        measured_bytes=measured,
        sampling_seconds=update_began - began,
        update_seconds=ended - update_began,
        tokens_a_second=rollouts.tokens / (ended - began),
    )


def allocated_bytes(device: torch.device) -> int | None:
    """The peak of CUDA's allocator since it was reset; a CPU has none that counts."""
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else None


def setup_of(
    policy,
    algorithm,
    config,
    prompt_tokens: int,
    optimizer: Callable = adamw,
    reference: bool = True,
    evaluated: int = 0,
) -> Setup:
    """The byte ledger's set-up of a run.

    Args:
        policy, algorithm, config, optimizer, reference: as :func:`grpo_teach.train` takes them.
        prompt_tokens, evaluated: as :meth:`Setup.of` takes them.
    Raises:
        InputError: if the ledger does not know the model, the algorithm or the optimizer.
    """
    name = next((name for name, known in ALGORITHMS.items() if known is algorithm), algorithm.label)
    asked = config, Options.of(policy), optimizer.__name__, reference, prompt_tokens, evaluated
    return Setup.of(Shape.of(policy.config), name, *asked)
