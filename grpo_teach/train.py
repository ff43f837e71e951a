"""The training loop: sample, reward, update. It knows no algorithm and no task by name."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from grpo_teach import records
from grpo_teach.errors import InputError, TrainingDiverged
from grpo_teach.evaluate import Evaluation, evaluate
from grpo_teach.losses import kl_k3
from grpo_teach.policy import Models
from grpo_teach.rollout import sample, score

KL_ROWS = 16  # rows of each batch on which the distance to the base is monitored


def adamw(parameters, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW of torch, two float32 states a parameter, without weight decay."""
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0, fused=True)


def needs_reference(config) -> bool:
    """Have an algorithm's settings a KL term?"""
    return bool(getattr(config, "beta", 0) or getattr(config, "kl_coefficient", 0))


def _fingerprint(policy) -> str:
    """Seven digits of the sum of all weights' sizes, a piece at a time: one large weight in float64 is gigabytes."""
    pieces = (piece for p in policy.parameters() for piece in p.detach().flatten().split(2**24))
    return f"{sum(float(piece.double().abs().sum()) for piece in pieces):.7g}"


@dataclass
class Trainer:
    """Everything one run carries from step to step; ``history`` holds one row of metrics a step."""

    models: Models
    tokenizer: object
    task: object
    algorithm: object
    config: object
    seed: int = 0
    make_optimizer: Callable = adamw
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    history: list[dict] = field(default_factory=list)

    def __post_init__(self):
        records.seed_everything(self.seed)
        # The reference is made of the policy that the run starts from, so a run resumed from another is another run.
        self.start = _fingerprint(self.models.policy)
        self.prompt_generator = torch.Generator().manual_seed(self.seed)  # its state is the position in the data
        self.parameters = [p for p in self.models.trainable().parameters() if p.requires_grad]
        self.optimizer = self.make_optimizer(self.parameters, self.config.learning_rate)
        # float16 reaches no lower than 6e-8: gradients on their way back are scaled up, and down before the step.
        policy = self.models.policy
        self.scaler = torch.amp.GradScaler(policy.device.type, enabled=policy.dtype == torch.float16)

    def train_step(self) -> dict:
        """Sample one batch, reward it, update on it. Returns the step's metrics."""
        started = time.perf_counter()
        config = self.config
        problems = self.task.sample(config.prompts, self.prompt_generator)
        try:
            rollouts = sample(
                self.models.policy,
                self.tokenizer,
                [problem.prompt for problem in problems],
                config.group_size,
                config.max_new_tokens,
                config.temperature,
            )
        except FloatingPointError as error:
            raise TrainingDiverged(f"step {self.step}: {error}") from error
        texts = rollouts.texts(self.tokenizer)
        rewards = self.task.reward(texts, problems).to(rollouts.mask.device)
        row = {
            "step": self.step,
            "reward": float(rewards.mean()),
            "length": float(rollouts.lengths.float().mean()),
            "thinks": sum(map(self.task.thinks, texts)) / len(texts),
            # Minus the mean log-prob of what was sampled: an unbiased estimate, nats a token.
            "entropy": -float(rollouts.old_logprobs.sum() / rollouts.tokens),
            "mixed_groups": float((rewards.max(dim=1).values > rewards.min(dim=1).values).float().mean()),
            **self._kl_to_reference(rollouts),
            "loss": 0.0,
            "grad_norm": 0.0,
        }
        self.models.trainable().train()
        for loss, metrics in self.algorithm.update(self.models, rollouts, rewards, config):
            self._must_be_finite("loss", float(loss.detach()))
            self.optimizer.zero_grad()
            if loss.requires_grad:  # a batch of equal rewards has nothing to teach: no row was scored
                self.scaler.scale(loss).backward()
                self.scaler.unscale_(self.optimizer)
                grad_norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, config.max_grad_norm))
                if not self.scaler.is_enabled() or self.scaler.get_scale() < 1:
                    self._must_be_finite("gradient", grad_norm)
                self.scaler.step(self.optimizer)  # skips an overflown gradient; the scale is then halved
                self.scaler.update()
                self._must_be_finite("weights' sum", float(sum(p.detach().sum() for p in self.parameters)))
                row |= {"loss": float(loss.detach()), "grad_norm": grad_norm if math.isfinite(grad_norm) else 0.0}
            row |= metrics
        self.tokens += rollouts.tokens
        self.seconds += time.perf_counter() - started
        self.step += 1
        row |= {"tokens": self.tokens, "seconds": round(self.seconds, 3)}
        return row

    @torch.no_grad()
    def _kl_to_reference(self, rollouts) -> dict[str, float]:
        """Mean k3 to the reference, nats a token, on evenly spaced rows of the batch; nothing without a reference."""
        if self.models.reference is None:
            return {}
        part = rollouts[torch.arange(0, len(rollouts), max(1, len(rollouts) // KL_ROWS))]
        k3 = kl_k3(part.old_logprobs, score(self.models.reference, part, self.config.temperature))
        return {"kl": float((k3 * part.mask).sum() / part.mask.sum())}

    def _must_be_finite(self, quantity: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingDiverged(f"step {self.step}: the {quantity} is {value}; the last checkpoint is kept")

    def identity(self) -> dict:
        """What must be the same for a run to be the same run."""
        run = {"algorithm": self.algorithm.label, "task": repr(self.task), "seed": self.seed}
        run |= {"starting_weights": self.start, "optimizer": self.make_optimizer.__name__}
        run |= {"dtype": str(self.models.policy.dtype)}
        return run | dataclasses.asdict(self.config)

    def state(self) -> dict:
        """Everything a later process needs to go on as if nothing had happened."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "history": self.history,
            "models": self.models.learnt(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": records.random_states(),
            "prompts": self.prompt_generator.get_state(),
            "config": self.identity(),
        }

    def restore(self, state: dict) -> None:
        """Take up a state that :meth:`state` gave.

        Raises:
            InputError: if it was made with other settings or from another policy.
        """
        mine = self.identity()
        differing = sorted(k for k in mine.keys() | state["config"].keys() if mine.get(k) != state["config"].get(k))
        if differing:
            raise InputError(f"the checkpoint was made with other settings: {', '.join(differing)}")
        self.models.load(state["models"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]
        self.history = list(state["history"])
        self.prompt_generator.set_state(state["prompts"])
        records.restore_random_states(state["random"])

    def evaluate(self, problems: int) -> Evaluation:
        """The policy as it is now, on the task's fixed held-out problems."""
        asked = {"temperature": self.config.temperature, "max_new_tokens": self.config.max_new_tokens}
        return evaluate(self.models.policy, self.tokenizer, self.task, problems, **asked)


def train(
    policy,
    tokenizer,
    task,
    algorithm,
    config,
    *,
    steps: int | None = None,
    tokens: int | None = None,
    seed: int = 0,
    optimizer: Callable = adamw,
    reference: bool = True,
    out: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: int = 10,
    evaluate_every: int = 0,
    problems: int = 512,
    callbacks: Sequence[Callable[[dict], None]] = (),
    progress: bool = True,
) -> Trainer:
    """Train a policy in place until a number of steps or of generated tokens is reached.

    Args:
        policy, tokenizer: as :func:`grpo_teach.load_base` returns them.
        task: what to train on.
        algorithm: an entry of ``ALGORITHMS``.
        config: that algorithm's settings.
        steps, tokens: the run ends when either is reached; one must be given.
        seed: of prompts, sampling and shuffles.
        optimizer: makes one from the parameters and the learning rate: :func:`adamw`, or
            :func:`grpo_teach.large.adamw8bit`.
        reference: False saves the frozen copy where nothing but the monitored ``kl`` needs it.
        out: folder for ``metrics.jsonl``, ``manifest.json``, ``checkpoint.pt``; None writes nothing.
        resume: go on from ``out/checkpoint.pt`` if there is one.
        checkpoint_every: steps between checkpoints.
        evaluate_every: steps between evaluations, the first before step 0; 0 for none.
        problems: held-out problems an evaluation.
        callbacks: called with each step's row of metrics.
        progress: show a bar with reward, length and KL.
    Returns:
        The trainer, with ``history``, ``tokens``, ``seconds`` (evaluation and writing not counted) and
        ``models.policy``.
    Raises:
        InputError: for an impossible request or an unreadable checkpoint.
        TrainingDiverged: if a loss, gradient or log-prob is not finite; the last checkpoint is kept.
    """
    if steps is None and tokens is None:
        raise InputError("say when to stop: give steps or tokens")
    if not reference and needs_reference(config):
        raise InputError("a KL term needs the reference: keep it, or set the term's weight to 0")
    folder = records.output_folder(out) if out is not None else None
    models = Models.build(policy, getattr(config, "critic", None), reference)
    trainer = Trainer(models, tokenizer, task, algorithm, config, seed, optimizer)
    checkpoint = folder / "checkpoint.pt" if folder else None
    if resume and checkpoint and checkpoint.exists():
        trainer.restore(records.load_checkpoint(checkpoint))
    elif checkpoint and checkpoint.exists():
        raise InputError(f"{folder} already holds a run: resume it, or choose another folder")
    log = records.MetricsLog(folder, trainer.step) if folder else None
    if folder:
        records.write_json(folder / "manifest.json", records.manifest(trainer.identity(), seed))

    def finished() -> bool:
        return (steps is not None and trainer.step >= steps) or (tokens is not None and trainer.tokens >= tokens)

    bar = tqdm(total=steps or tokens, initial=trainer.step if steps else trainer.tokens, disable=not progress)
    bar.set_description(algorithm.label)
    try:
        while not finished():
            evaluation = {}
            if evaluate_every and trainer.step % evaluate_every == 0:
                evaluation = {"evaluation": trainer.evaluate(problems).as_dict()}
            row = trainer.train_step() | evaluation
            trainer.history.append(row)
            if log:
                log.write(row)
            for callback in callbacks:
                callback(row)
            bar.set_postfix({name: f"{row[name]:.3g}" for name in ("reward", "length", "kl") if name in row})
            bar.update((trainer.step if steps else trainer.tokens) - bar.n)
            if checkpoint and (trainer.step % checkpoint_every == 0 or finished()):
                records.save_checkpoint(checkpoint, trainer.state())
    finally:
        bar.close()
        if log:
            log.close()
    policy.eval()
    return trainer
