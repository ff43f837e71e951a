"""The training loop: sample, reward, look, update. It knows no algorithm, task or reward by name."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from grpo_teach import records
from grpo_teach.errors import InputError, TrainingDiverged
from grpo_teach.evaluate import Evaluation, evaluate
from grpo_teach.learner import Learner, adamw
from grpo_teach.losses import kl_k3
from grpo_teach.policy import Models
from grpo_teach.rewards.paid import paid, reward_identity
from grpo_teach.rollout import Rollouts, sample
from grpo_teach.score import score

SPENT = ("tokens", "seconds", "history")
KL_ROWS = 16  # at least so many rows of each batch, where it has them, show the distance to the base


def mixed_groups(rewards: Tensor) -> float:
    """The share of groups, rows of [P, G], whose rewards are not all equal: the others teach GRPO nothing."""
    return float((rewards.max(dim=1).values > rewards.min(dim=1).values).float().mean())


@torch.no_grad()
def kl_to_reference(reference, rollouts: Rollouts, temperature: float) -> dict[str, float]:
    """``kl``: mean k3 to the reference, nats a token, on evenly spaced rows of the batch; nothing without one."""
    if reference is None:
        return {}
    part = rollouts[torch.arange(0, len(rollouts), max(1, len(rollouts) // KL_ROWS))]
    k3 = kl_k3(part.old_logprobs, score(reference, part, temperature))
    return {"kl": float((k3 * part.mask).sum() / part.mask.sum())}


def fingerprint(policy) -> str:
    """Seven digits of the sum of all absolute weights, a piece at a time: one matrix in float64 may be gigabytes."""
    pieces = (piece for p in policy.parameters() for piece in p.detach().flatten().split(2**24))
    return f"{sum(float(piece.double().abs().sum()) for piece in pieces):.7g}"


@dataclass(kw_only=True)
class Trainer(Learner):
    """Everything one run carries from step to step; ``history`` holds one row of metrics a step.

    ``stopped`` ends the run after the step that sets it, with a checkpoint.
    """

    tokenizer: object
    task: object
    reward: Callable | None = None
    seed: int = 0
    tokens: int = 0
    seconds: float = 0.0
    history: list[dict] = field(default_factory=list)
    stopped: bool = False

    def __post_init__(self):
        records.seed_everything(self.seed)
        # The reference is made of the policy that the run starts from, so a run resumed from another is another run.
        self.start = fingerprint(self.models.policy)
        self.prompt_generator = torch.Generator().manual_seed(self.seed)  # its state is the position in the data
        super().__post_init__()

    def train_step(self) -> dict:
        """Sample, reward, look, update. Returns the step's metrics."""
        started = time.perf_counter()
        problems, rollouts = self.sample()
        texts = rollouts.texts(self.tokenizer)
        rewards = self.rewarded(texts, problems)
        row = self.look(rollouts, texts, rewards) | getattr(self.reward, "seen", {})
        row |= self.learn(rollouts, rewards)
        self.tokens += rollouts.tokens
        self.seconds += time.perf_counter() - started
        return row | {"tokens": self.tokens, "seconds": round(self.seconds, 3)}

    def sample(self) -> tuple[list, Rollouts]:
        """A batch's problems, and G completions of each."""
        problems = self.task.sample(self.config.prompts, self.prompt_generator)
        sizes = self.config.group_size, self.config.max_new_tokens, self.config.temperature
        return problems, sample(self.models.policy, self.tokenizer, [problem.prompt for problem in problems], *sizes)

    def rewarded(self, texts: list[str], problems: list) -> Tensor:
        """[P, G] what the completions are paid; anything but one finite number for each is refused."""
        reward = self.task.reward if self.reward is None else self.reward
        return paid(reward, texts, problems).to(self.models.policy.device)

    def look(self, rollouts: Rollouts, texts: list[str], rewards: Tensor) -> dict:
        """What a batch shows before anything is learnt from it; lengths in tokens, entropy in nats a token."""
        row = {
            "step": self.step,
            "reward": float(rewards.mean()),
            "length": float(rollouts.lengths.float().mean()),
            "thinks": sum(map(self.task.thinks, texts)) / len(texts),
            # Minus the mean log-prob of what was sampled: an unbiased estimate.
            "entropy": -float(rollouts.old_logprobs.sum() / rollouts.tokens),
            "mixed_groups": mixed_groups(rewards),
        }
        return row | kl_to_reference(self.models.reference, rollouts, self.config.temperature)

    def identity(self) -> dict:
        """What must be the same for a run to be the same run."""
        run = {"algorithm": self.algorithm.label, "task": repr(self.task), "seed": self.seed}
        run |= {"starting_weights": self.start, "dtype": str(self.models.policy.dtype)}
        run |= {"optimizer": self.make_optimizer.__name__}
        if self.reward not in (None, self.task.reward):
            run |= reward_identity(self.reward)
        return run | dataclasses.asdict(self.config)

    def state(self) -> dict:
        """The learner's state, the position in the data, every random state, and what the run has spent."""
        where = {"random": records.random_states(), "prompts": self.prompt_generator.get_state()}
        return super().state() | where | {name: getattr(self, name) for name in SPENT} | {"config": self.identity()}

    def restore(self, state: dict) -> None:
        """Take up a state that :meth:`state` gave.

        Raises:
            InputError: if it was made with other settings or from another policy.
        """
        mine, held = self.identity(), records.in_todays_words(state.get("config", {}))
        differing = sorted(k for k in mine.keys() | held.keys() if mine.get(k) != held.get(k))
        if differing:
            raise InputError(f"the checkpoint was made with other settings: {', '.join(differing)}")
        super().restore(state)
        for name in SPENT:
            setattr(self, name, state[name])
        self.prompt_generator.set_state(state["prompts"])
        records.restore_random_states(state["random"])

    def evaluate(self, problems: int) -> Evaluation:
        """The policy as it is now, on the task's fixed held-out problems."""
        asked = {"temperature": self.config.temperature, "max_new_tokens": self.config.max_new_tokens}
        return evaluate(self.models.policy, self.tokenizer, self.task, problems, **asked)


def train(
    policy, tokenizer, task, algorithm, config, *,
    steps: int | None = None, tokens: int | None = None, seed: int = 0,
    reward: Callable | None = None, optimizer: Callable = adamw, reference: bool = True,
    out: str | Path | None = None, resume: bool = False, checkpoint_every: int = 10,
    evaluate_every: int = 0, problems: int = 512,
    callbacks: Sequence[Callable[[dict], None]] = (), progress: bool = True, kind: Callable[..., Trainer] = Trainer,
) -> Trainer:  # fmt: skip
    """Train a policy in place until a number of steps or of generated tokens is reached.

    Args:
        policy, tokenizer: as :func:`grpo_teach.load_base` returns them.
        task: what to train on.
        algorithm: an entry of ``ALGORITHMS``.
        config: that algorithm's settings.
        steps, tokens: the run ends when either is reached; one must be given.
        seed: of prompts, sampling and shuffles.
        reward: what training pays, ``(completions, problems) -> [P, G]``; without it ``task.reward``. Evaluation
            stays with the task, so a proxy's rise is seen beside the task's own grade. A run that is resumed is held
            to the same reward by its name and source. What it keeps in ``seen``, numbers by name, is logged.
        optimizer: makes one from the parameters and the learning rate: :func:`adamw`, or
            :func:`grpo_teach.large.adamw8bit`.
        reference: False saves the frozen copy where nothing but the monitored ``kl`` needs it.
        out: folder for ``metrics.jsonl``, ``manifest.json``, ``checkpoint.pt``; None writes nothing.
        resume: go on from ``out/checkpoint.pt`` if there is one.
        checkpoint_every: steps between checkpoints.
        evaluate_every: steps between evaluations, each before its step's update, the first before step 0; 0 for none.
        problems: held-out problems an evaluation.
        callbacks: called with each step's row of metrics.
        progress: show a bar with reward, length and KL.
        kind: :class:`Trainer`, or a class made of it that does more on the way.
    Returns:
        The trainer, with ``history``, ``tokens``, ``seconds`` (evaluation and writing not counted) and
        ``models.policy``.
    Raises:
        InputError: for an impossible request, an unreadable checkpoint, or a reward that is none (its name and the
            completion that did it are in the message).
        TrainingDiverged: if a loss, gradient or log-prob is not finite. The last checkpoint is kept, and named.
    """
    if steps is None and tokens is None:
        raise InputError("say when to stop: give steps or tokens")
    if not (hasattr(algorithm, "Settings") and isinstance(config, algorithm.Settings)):
        raise InputError("give an entry of ALGORITHMS, and settings of its own kind: algorithm.Settings(...)")
    if not reference and config.uses_reference:
        raise InputError("a KL term needs the reference: keep it, or set the term's weight to 0")
    folder = records.output_folder(out, resume) if out is not None else None
    models = Models.build(policy, config.critic, reference)
    trainer = kind(models, algorithm, config, optimizer, tokenizer=tokenizer, task=task, reward=reward, seed=seed)
    checkpoint = folder / "checkpoint.pt" if folder else None
    if checkpoint and checkpoint.exists():
        trainer.restore(records.load_checkpoint(checkpoint))
    if folder:
        records.write_json(folder / "manifest.json", records.manifest(trainer.identity(), seed))
        callbacks = [records.MetricsLog(folder, trainer.history).write, *callbacks]

    def finished() -> bool:
        reached = (steps is not None and trainer.step >= steps) or (tokens is not None and trainer.tokens >= tokens)
        return reached or trainer.stopped

    counted = ("step", steps, trainer.step) if steps else ("token", tokens, trainer.tokens)
    bar = records.bar(algorithm.label, *counted, progress)
    try:
        while not finished():
            evaluation = {}
            if evaluate_every and trainer.step % evaluate_every == 0:
                evaluation = {"evaluation": trainer.evaluate(problems).as_dict()}
            row = trainer.train_step() | evaluation
            trainer.history.append(row)
            for callback in callbacks:
                callback(row)
            shown = {name: f"{row[name]:.3g}" for name in ("reward", "length", "kl") if name in row}
            bar.set_postfix(shown, refresh=False)
            bar.update((trainer.step if steps else trainer.tokens) - bar.n)
            if checkpoint and (trainer.step % checkpoint_every == 0 or finished()):
                records.save_checkpoint(checkpoint, trainer.state())
    except (InputError, TrainingDiverged, OSError) as error:  # the last from a disk that is full
        kept = f"; {checkpoint} holds the last good step" if checkpoint and checkpoint.exists() else ""
        kind = TrainingDiverged if isinstance(error, TrainingDiverged) else InputError
        where = "" if kind is InputError or str(error).startswith("step") else f"step {trainer.step}: "
        raise kind(f"{where}{error}{kept}") from error
    finally:
        bar.close()
    policy.eval()
    return trainer
