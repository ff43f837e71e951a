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


@dataclass
class Trainer:
    """Everything one run carries from step to step; ``history`` holds one row of metrics a step."""

    models: Models
    tokenizer: object
    task: object
    algorithm: object
    config: object
    seed: int = 0
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    history: list[dict] = field(default_factory=list)

    def __post_init__(self):
        records.seed_everything(self.seed)
        # The reference is the policy that the run starts from, so a run resumed from another would be another run.
        self.start = f"{sum(float(p.detach().double().abs().sum()) for p in self.models.policy.parameters()):.7g}"
        self.prompt_generator = torch.Generator().manual_seed(self.seed)  # its state is the position in the data
        self.parameters = [p for p in self.models.trainable().parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=self.config.learning_rate, weight_decay=0.0, fused=True)

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
            "kl": self._kl_to_reference(rollouts),
            "loss": 0.0,
            "grad_norm": 0.0,
        }
        self.models.policy.train()
        for loss, metrics in self.algorithm.update(self.models, rollouts, rewards, config):
            self._must_be_finite("loss", float(loss.detach()))
            self.optimizer.zero_grad()
            if loss.requires_grad:  # a batch of equal rewards has nothing to teach: no row was scored
                loss.backward()
                grad_norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, config.max_grad_norm))
                self._must_be_finite("gradient", grad_norm)
                self.optimizer.step()
                self._must_be_finite("weights' sum", float(sum(p.detach().sum() for p in self.parameters)))
                row |= {"loss": float(loss.detach()), "grad_norm": grad_norm}
            row |= metrics
        self.tokens += rollouts.tokens
        self.seconds += time.perf_counter() - started
        self.step += 1
        row |= {"tokens": self.tokens, "seconds": round(self.seconds, 3)}
        return row

    @torch.no_grad()
    def _kl_to_reference(self, rollouts) -> float:
        """Mean k3 to the reference, nats a token, on evenly spaced rows of the batch."""
        part = rollouts[torch.arange(0, len(rollouts), max(1, len(rollouts) // KL_ROWS))]
        k3 = kl_k3(part.old_logprobs, score(self.models.reference, part, self.config.temperature))
        return float((k3 * part.mask).sum() / part.mask.sum())

    def _must_be_finite(self, quantity: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingDiverged(f"step {self.step}: the {quantity} is {value}; the last checkpoint is kept")

    def identity(self) -> dict:
        """What must be the same for a run to be the same run."""
        run = {"algorithm": self.algorithm.label, "task": repr(self.task), "seed": self.seed}
        return run | {"starting_weights": self.start} | dataclasses.asdict(self.config)

    def state(self) -> dict:
        """Everything a later process needs to go on as if nothing had happened."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "history": self.history,
            "models": self.models.trainable().state_dict(),
            "optimizer": self.optimizer.state_dict(),
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
        self.models.trainable().load_state_dict(state["models"])
        self.optimizer.load_state_dict(state["optimizer"])
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
    folder = records.output_folder(out) if out is not None else None
    models = Models.build(policy, critic=getattr(config, "critic", None))
    trainer = Trainer(models, tokenizer, task, algorithm, config, seed)
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
            bar.set_postfix({name: f"{row[name]:.3g}" for name in ("reward", "length", "kl")})
            bar.update((trainer.step if steps else trainer.tokens) - bar.n)
            if checkpoint and (trainer.step % checkpoint_every == 0 or finished()):
                records.save_checkpoint(checkpoint, trainer.state())
    finally:
        bar.close()
        if log:
            log.close()
    policy.eval()
    return trainer
