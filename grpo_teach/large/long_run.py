"""What a run of many hours wants beside the loop: it can be watched, ended and gone on with.

:class:`LongRun` is the loop's trainer with a schedule, a log of completions, the best policy kept, and an end by the
clock or by Ctrl-C. It learns exactly as the trainer does unless it is asked for a schedule or a mask.
"""

from __future__ import annotations

import importlib
import math
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from grpo_teach.errors import InputError
from grpo_teach.evaluate import Evaluation, evaluate
from grpo_teach.policy import save_policy
from grpo_teach.rollout import Rollouts, ends
from grpo_teach.settings import Checked, setting
from grpo_teach.train import Trainer

__all__ = ["LongRun", "Stop", "Watch", "ended", "rate_factor", "stop_on_interrupt"]

GREEDY = 1e-6  # a temperature at which the likeliest token has all the probability
SCHEDULES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class Watch(Checked):
    """What a long run is asked for, beside its algorithm's settings."""

    schedule: str = setting("constant", "of the learning rate: as it is, or falling to 0 over the run", SCHEDULES)
    warmup: int = setting(0, "first steps over which the learning rate rises")
    mask_cut_off: bool = setting(False, "completions that were cut off teach nothing; their rewards count in the group")
    greedy: bool = setting(False, "each evaluation asks for the likeliest answers too")
    completions: int = setting(4, "how many of a step are written to completions.txt")
    max_hours: float = setting(
        0.0, "end in good order so many hours after the start, the last evaluation not counted; 0: never"
    )


def ended(policy, tokenizer, rollouts: Rollouts) -> Tensor:
    """Which completions end by themselves, [B, 1] of bool; the others were cut off."""
    last = rollouts.completion_ids.gather(1, rollouts.lengths[:, None] - 1)
    return torch.isin(last, last.new_tensor(ends(policy, tokenizer)))


def rate_factor(step: int, steps: int, schedule: str, warmup: int) -> float:
    """What the learning rate is multiplied by: up in a line over the warm-up, then as the schedule says.

    ``min(1, (step + 1) / (warmup + 1))`` times 1, ``1 - t`` or ``(1 + cos(pi t)) / 2`` with
    ``t = max(0, step - warmup) / (steps - warmup)``, which the first step after the last would bring to 1.

    Args:
        step: from 0.
        steps: of the whole run.
        schedule: ``"constant"``, ``"linear"`` or ``"cosine"``.
        warmup: steps before the full rate.
    """
    done = min(1.0, max(0, step - warmup) / max(1, steps - warmup))
    fallen = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[schedule]
    return min(1.0, (step + 1) / (warmup + 1)) * fallen


@dataclass
class Stop:
    """Whether somebody has asked the run to end after its step, and whether it has begun with one."""

    asked: bool = False
    begun: bool = False


@contextmanager
def stop_on_interrupt() -> Iterator[Stop]:
    """Within it the first Ctrl-C asks for an end in good order; the second interrupts as ever, as does one too early.

    Until the first step has begun there is nothing that a checkpoint would save.
    """
    stop, before = Stop(), signal.getsignal(signal.SIGINT)

    def ask(*_) -> None:
        if not stop.begun:
            raise KeyboardInterrupt
        stop.asked = True
        signal.signal(signal.SIGINT, before)
        print("ending after this step, with a checkpoint; Ctrl-C again ends at once", flush=True)

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield stop
        return
    signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass(kw_only=True)
class LongRun(Trainer):
    """The loop's trainer, watched.

    Attributes:
        watch: what is asked for.
        steps: of the whole run, for the schedule.
        out: the run's folder: ``completions.txt``, ``tensorboard/`` where it is installed, ``latest/`` and ``best/``:
            the policy of the last checkpoint, and that of the loop's own evaluation with the highest accuracy.
        keep_every: steps between two savings of ``latest/``.
        stop: asked after each step.
        progress: show a bar in evaluations.
        problems: how many to ask before the first step, unless the loop asks as many then itself; 0 for none.
        before: that evaluation.
    """

    watch: Watch = field(default_factory=Watch)
    steps: int
    out: Path
    keep_every: int = 10
    stop: Stop = field(default_factory=Stop)
    progress: bool = False
    problems: int = 0
    before: dict = field(default_factory=dict)
    best: float = -1.0

    def __post_init__(self):
        super().__post_init__()
        learns = self.steps - self.config.critic_warmup
        if self.watch.schedule != Watch.schedule and self.watch.warmup >= learns:
            raise InputError(f"warmup must end before the run's {learns} steps do, or no schedule can follow it")
        self.began, self.board, self.said = time.perf_counter(), None, ([], [])
        self.rates = [group["lr"] for group in self.optimizer.param_groups]

    def train_step(self) -> dict:
        """The trainer's, at the schedule's learning rate; then what happened is written down."""
        step = self.step
        if step == 0 and self.problems and not self.before:
            self.before = self.evaluate(self.problems, keep=False).as_dict()
        self.stop.begun = True
        alone = self.config.critic_warmup  # steps from which the critic learns alone, at its full rate
        factor = rate_factor(max(0, step - alone), self.steps - alone, self.watch.schedule, self.watch.warmup)
        factors = [factor, 1.0 if step < alone else factor]
        for group, rate, part in zip(self.optimizer.param_groups, self.rates, factors, strict=False):
            group["lr"] = rate * part
        self.board = self.board or Board(self.out, step)
        row = super().train_step() | {"learning_rate": self.rates[0] * factor}
        self.board.numbers(row, step)
        self.board.completions(self._few(), step)
        hours = (time.perf_counter() - self.began) / 3600
        self.stopped = self.stop.asked or 0 < self.watch.max_hours <= hours
        if self.step % self.keep_every == 0 or self.stopped:
            save_policy(self.models.policy, self.tokenizer, self.out / "latest")
        return row

    def rewarded(self, texts: list[str], problems: list) -> Tensor:
        """The trainer's; the texts are kept for the log."""
        rewards = super().rewarded(texts, problems)
        self.said = texts, problems, rewards.flatten().tolist()
        return rewards

    def learn(self, rollouts: Rollouts, rewards: Tensor) -> dict:
        """The trainer's, without the tokens of completions that were cut off if that is asked for.

        Source: DAPO (arXiv 2503.14476) section 3.4, overlong filtering.
        """
        if self.watch.mask_cut_off:
            rollouts = replace(rollouts, mask=rollouts.mask * ended(self.models.policy, self.tokenizer, rollouts))
        return super().learn(rollouts, rewards)

    def evaluate(self, problems: int, keep: bool = True) -> Evaluation:
        """The trainer's, and greedily too if that is asked for, as the figure ``greedy``; ``keep`` the best policy."""
        asked = self.models.policy, self.tokenizer, self.task, problems
        how = {"max_new_tokens": self.config.max_new_tokens, "progress": self.progress}
        found = evaluate(*asked, temperature=self.config.temperature, **how)
        if self.watch.greedy:
            likeliest = evaluate(*asked, temperature=GREEDY, **how)
            found = replace(found, figures=found.figures | {"greedy": likeliest.accuracy})
        if keep and found.accuracy > self.best:
            self.best = found.accuracy
            save_policy(self.models.policy, self.tokenizer, self.out / "best")
        if keep:
            if self.step == 0 and problems == self.problems:
                self.before = found.as_dict()
            self.board = self.board or Board(self.out, self.step)
            self.board.numbers({"evaluation": found.as_dict()}, self.step)
        return found

    def identity(self) -> dict:
        """The trainer's, what of the watch changes the training, and the adapter's rank and scale."""
        changes = {name: getattr(self.watch, name) for name in ("schedule", "warmup", "mask_cut_off")}
        changes = {name: value for name, value in changes.items() if value != getattr(Watch, name)}
        changes |= {"steps": self.steps} if "schedule" in changes else {}
        adapter = getattr(self.models.policy, "peft_config", {}).get("default")
        changes |= {"lora_rank": adapter.r, "lora_alpha": adapter.lora_alpha} if adapter else {}
        return super().identity() | changes

    def state(self) -> dict:
        """The trainer's, the first evaluation and the best accuracy so far."""
        return super().state() | {"before": self.before, "best": self.best}

    def restore(self, state: dict) -> None:
        """The trainer's, unless more steps are made already than are asked for."""
        if state["step"] > self.steps:
            raise InputError(f"the checkpoint is {state['step']} steps on, further than the {self.steps} asked for")
        unsaid = {name: value for name, value in self.identity().items() if name.startswith("lora_")}  # by older runs
        state = {"before": {}, "best": self.best} | state | {"config": unsaid | state.get("config", {})}
        super().restore(state)
        self.before, self.best = state["before"], state["best"]

    def _few(self) -> list[tuple[str, float, str]]:
        texts, problems, rewards = self.said
        group, few = len(texts) // len(problems), min(self.watch.completions, len(texts))
        rows = [i * len(texts) // few for i in range(few)]
        return [(texts[b], rewards[b], problems[b // group].answer) for b in rows]


class Board:
    """``completions.txt``, and TensorBoard where it is installed.

    Args:
        folder: the run's.
        first_step: what an earlier process wrote from this step on is dropped: it will be written again.
    """

    def __init__(self, folder: Path, first_step: int):
        self.path, self.tensorboard = folder / "completions.txt", None
        folder.mkdir(parents=True, exist_ok=True)
        held = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        later = (m.start() for m in re.finditer(r"^=== step (\d+) ", held, re.MULTILINE) if int(m[1]) >= first_step)
        self.path.write_text(held[: next(later, len(held))], encoding="utf-8")
        with suppress(ImportError):
            board = importlib.import_module("torch.utils.tensorboard")
            self.tensorboard = board.SummaryWriter(folder / "tensorboard", purge_step=first_step)

    def numbers(self, row: dict, step: int) -> None:
        """Every number of a row, those of a dictionary within as ``evaluation/accuracy``."""
        for name, value in _flat(row) if self.tensorboard else ():
            if isinstance(value, int | float) and name != "step":
                self.tensorboard.add_scalar(name, value, step)

    def completions(self, few: list[tuple[str, float, str]], step: int) -> None:
        """Completions with what they were paid, and the right answer."""
        blocks = [f"=== step {step} paid {paid:g}, right is {answer}\n{text}\n" for text, paid, answer in few]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(blocks))
        if self.tensorboard and blocks:
            self.tensorboard.add_text(
                "completions", "\n".join(f"    {line}" for line in "".join(blocks).splitlines()), step
            )
            self.tensorboard.flush()


def _flat(row: dict, before: str = "") -> Iterator[tuple[str, object]]:
    for name, value in row.items():
        yield from _flat(value, f"{before}{name}/") if isinstance(value, dict) else [(f"{before}{name}", value)]
