"""Pre-flight: before the long run, will it learn here, and what will it take?

Groups of equal rewards teach GRPO nothing. So what counts is the share of groups that are mixed, and a few dozen
training prompts show it in minutes. Two real steps show the memory and the seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from grpo_teach import records
from grpo_teach.clinic.cost import Cost, rehearse
from grpo_teach.errors import InputError
from grpo_teach.evaluate import answers, pass_at_k, wilson_interval
from grpo_teach.large.long_run import ended
from grpo_teach.train import adamw

__all__ = ["Grade", "Preflight", "judge", "mixed_if_alike", "mixed_share", "preflight"]

LEAST_MIXED = 0.1  # with fewer mixed groups, nine of ten sampled tokens are paid for and teach nothing
MANY_CUT_OFF = 0.1  # of completions: the reward then measures brevity too
FORMAT_GAP = 0.1  # between lenient and strict accuracy: so much of a gain in the strict one could be format alone
KINDER = "lenient"  # the grade that overlooks the format
GIB = 2**30


def mixed_share(n: int, right: int, group_size: int) -> float:
    """Chance that a group drawn from n answers to one problem, of which some are right, holds both kinds.

    ``1 - C(right, G) / C(n, G) - C(n - right, G) / C(n, G)``: the share of G-subsets of the n answers that do. With
    ``n = G`` it is 1 or 0.

    Args:
        n: answers sampled, at least G.
        right: how many of them are right.
        group_size: G.
    Raises:
        ValueError: unless ``0 <= right <= n`` and ``1 <= G <= n``.
    """
    return pass_at_k(n, right, group_size) + pass_at_k(n, n - right, group_size) - 1


def mixed_if_alike(p: float, group_size: int) -> float:
    """The same if every prompt were answered rightly with probability p: ``1 - p ** G - (1 - p) ** G``.

    Prompts differ, so the share found is smaller. Much smaller: some prompts are always solved, others never.
    """
    return 1 - p**group_size - (1 - p) ** group_size


@dataclass(frozen=True)
class Grade:
    """The sampled answers under one grade. Intervals are 95% Wilson intervals that count problems, not answers.

    Attributes:
        accuracy: pass@1; ``interval`` is its own.
        pass_at_k: ``{k: share}`` for k = 1, 2, 4, … up to ``samples``.
        mixed: share of groups of the training's size with both right and wrong answers; ``mixed_interval``.
        mixed_if_alike: what :func:`mixed_if_alike` gives for this accuracy.
        all_right, all_wrong: the shares of the other groups.
    """

    accuracy: float
    interval: tuple[float, float]
    pass_at_k: dict[int, float]
    mixed: float
    mixed_interval: tuple[float, float]
    mixed_if_alike: float
    all_right: float
    all_wrong: float

    @classmethod
    def of(cls, right: list[int], samples: int, group_size: int) -> Grade:
        """From the number of right answers to each problem, of ``samples`` each."""
        problems = len(right)
        accuracy = sum(right) / (problems * samples)
        mixed = sum(mixed_share(samples, c, group_size) for c in right) / problems
        ks = [2**i for i in range(samples.bit_length()) if 2**i <= samples]
        return cls(
            accuracy=accuracy,
            interval=wilson_interval(accuracy, problems),
            pass_at_k={k: sum(pass_at_k(samples, c, k) for c in right) / problems for k in ks},
            mixed=mixed,
            mixed_interval=wilson_interval(mixed, problems),
            mixed_if_alike=mixed_if_alike(accuracy, group_size),
            all_right=sum(1 - pass_at_k(samples, samples - c, group_size) for c in right) / problems,
            all_wrong=sum(1 - pass_at_k(samples, c, group_size) for c in right) / problems,
        )


@dataclass(frozen=True)
class Preflight:
    """What :func:`preflight` found. ``str()`` of it is the report.

    Attributes:
        verdict: ``"ready"``, ``"too hard"``, ``"too easy"`` or ``"format first"``.
        reason: why, in one sentence.
        advice: what to do, a sentence each.
        grade: the one that training rewards.
        grades: it and every other that the task knows, by name.
        problems, samples, group_size: how many training prompts were asked, answers to each, and the training's G.
        max_new_tokens: the longest completion, tokens.
        mean_length: tokens a completion, EOS included.
        cut_off: share of completions that ended there without EOS.
        cost: bytes and seconds of a step.
        asked, evaluation_hours: answers that the run's evaluations sample together, and what they would take.
        steps, hours: what ``budget_steps`` such steps and the evaluations would take.
    """

    verdict: str
    reason: str
    advice: list[str]
    grade: str
    grades: dict[str, Grade]
    problems: int
    samples: int
    group_size: int
    max_new_tokens: int
    mean_length: float
    cut_off: float
    cost: Cost
    asked: int
    evaluation_hours: float
    steps: int
    hours: float

    def as_dict(self) -> dict:
        """Plain numbers, ready for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The report, line by line."""
        k = max(next(iter(self.grades.values())).pass_at_k)
        head = (
            f"{'grade':9}{'pass@1':>8}{'95% interval':>17}{f'pass@{k}':>9}{'mixed':>9}{'95% interval':>17}{'alike':>8}"
        )
        rows = [f"{self.verdict}: {self.reason}", head]
        for name, g in self.grades.items():
            row = f"{name:9}{g.accuracy:>8.1%}{_span(g.interval):>17}{g.pass_at_k[k]:>9.1%}"
            rows.append(f"{row}{g.mixed:>9.1%}{_span(g.mixed_interval):>17}{g.mixed_if_alike:>8.1%}")
        rows.append(f"mixed: groups of {self.group_size} with right and wrong answers; alike: were all prompts as hard")
        rows.append(f"length   {self.mean_length:.1f} tokens; {self.cut_off:.1%} cut off at {self.max_new_tokens}")
        cost = self.cost
        predicted = f"{cost.predicted_bytes / GIB:.2f} GiB predicted" if cost.predicted_bytes else "not predicted"
        measured = f"{cost.measured_bytes / GIB:.2f} GiB measured" if cost.measured_bytes else "not measured"
        rows.append(f"memory   {predicted}{f' ({cost.peak_phase})' if cost.peak_phase else ''}, {measured}")
        rows.append(
            f"a step   {cost.seconds:.2f} s: sampling {cost.sampling_seconds:.2f}, update {cost.update_seconds:.2f}; "
            f"{cost.tokens_a_second:,.0f} tokens a second"
        )
        if self.asked:
            rows.append(f"evaluation  {self.asked:,} answers, about {self.evaluation_hours:.2f} hours of them")
        rows.append(f"{self.steps:,} steps, about {self.hours:.2f} hours")
        return [*rows, *(f"- {sentence}" for sentence in self.advice)]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def _span(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.1%} – {interval[1]:.1%}"


def judge(grades: dict[str, Grade], grade: str, cut_off: float) -> tuple[str, str, list[str]]:
    """Verdict, reason and advice, by rules.

    ``"ready"`` if at least ``LEAST_MIXED`` of the groups are mixed. Else ``"too easy"`` if more of them are all right
    than all wrong; ``"format first"`` if under the lenient grade enough are mixed; ``"too hard"`` otherwise.

    Args:
        grades: by name.
        grade: the one that training rewards.
        cut_off: share of completions that were cut off.
    """
    found, kinder = grades[grade], grades.get(KINDER)
    low, high = found.mixed_interval
    reason = (
        f"{found.mixed:.1%} of the groups are mixed under {grade} ({low:.1%} – {high:.1%}; needed {LEAST_MIXED:.0%})"
    )
    if found.mixed >= LEAST_MIXED:
        verdict = "ready"
        advice = ["There is a gradient. Where it leads the reward decides: a lucky guess is rewarded too."]
    elif found.all_right > found.all_wrong:
        verdict, advice = "too easy", ["Little is left to learn here: take harder problems."]
    elif kinder and kinder.mixed >= LEAST_MIXED:
        verdict = "format first"
        reason += f", {kinder.mixed:.1%} under {KINDER}: the answers are there, the format is not"
        advice = [f"Train with --grade {KINDER} first, or a few SFT steps on worked solutions in the format."]
    else:
        verdict = "too hard"
        advice = ["Take easier problems, a stronger model, or a few SFT steps on worked solutions first."]
        advice += [
            "Larger groups hold rarer answers: pass@k is the share of prompts that a group of k solves at least once."
        ]
    if low < LEAST_MIXED <= high:
        advice.append("The interval holds the limit: ask more problems to be sure.")
    if cut_off >= MANY_CUT_OFF:
        advice.append("What is cut off has seldom reached its answer: raise max_new_tokens.")
    if kinder and kinder.accuracy - found.accuracy >= FORMAT_GAP:
        gap = 100 * (kinder.accuracy - found.accuracy)
        advice.append(f"Up to {gap:.0f} points of a gain under {grade} can be format alone: watch {KINDER} as well.")
    return verdict, reason, advice


def _sums(flags: list[bool], size: int) -> list[int]:
    return [sum(flags[i : i + size]) for i in range(0, len(flags), size)]


def preflight(
    policy,
    tokenizer,
    task,
    algorithm,
    config,
    *,
    problems: int = 32,
    samples: int | None = None,
    seed: int = 0,
    budget_steps: int = 200,
    optimizer: Callable = adamw,
    reference: bool = True,
    asked: int = 0,
    progress: bool = False,
) -> Preflight:
    """Sample groups from training prompts, run two steps as training would, and judge.

    Weights, random states and gradients are afterwards as they were. In the two steps every second answer counts as
    right: no row is left out, so bytes and seconds are those of the dearest step.

    Args:
        policy, tokenizer, task, algorithm, config, optimizer, reference: as :func:`grpo_teach.train` takes them.
        problems: different training prompts to ask; fewer if there are fewer. The test split is never asked.
        samples: answers to each; without a number the group size. More make pass@k reach further.
        seed: of prompts and sampling.
        budget_steps: how long a run to estimate the hours of.
        asked: answers that all evaluations of that run sample together. An answer takes as long as one of these here.
        progress: show a bar.
    Raises:
        InputError: for groups of one, fewer samples than a group, or a number below 1.
        TrainingDiverged: if a loss or gradient is not finite.
    """
    samples = config.group_size if samples is None else samples
    if min(problems, budget_steps) < 1:
        raise InputError(f"problems and budget_steps must be at least 1, got {problems} and {budget_steps}")
    if not 2 <= config.group_size <= samples:
        given = f"group_size {config.group_size}, samples {samples}"
        raise InputError(f"a group needs at least 2 answers, and samples at least a group: {given}")
    # Drawn with replacement, so that a small set needs many draws to be seen whole.
    drawn = task.sample(20 * problems, torch.Generator().manual_seed(seed))
    drawn, random_states = list(dict.fromkeys(drawn))[:problems], records.random_states()
    right: dict[str, list[bool]] = {}
    lengths, cut, prompt_tokens = [], [], 0
    bar = records.bar("pre-flight", "problem", len(drawn), 0, progress)
    try:
        records.seed_everything(seed)
        began = time.perf_counter()
        for part, rollouts, texts in answers(
            policy, tokenizer, drawn, samples, config.max_new_tokens, config.temperature
        ):
            for b, (text, reward) in enumerate(zip(texts, task.reward(texts, part).flatten().tolist(), strict=True)):
                for name, score in (task.figures(text, part[b // samples]) | {task.grade: reward}).items():
                    right.setdefault(name, []).append(score >= 1)
            lengths += rollouts.lengths.tolist()
            cut += (~ended(policy, tokenizer, rollouts)).flatten().tolist()
            prompt_tokens = max(prompt_tokens, int(rollouts.prompt_mask.sum(dim=1).max()))
            bar.update(len(part))
        evaluation_hours = asked * (time.perf_counter() - began) / len(lengths) / 3600
        cost = rehearse(policy, tokenizer, task, algorithm, config, prompt_tokens, seed, optimizer, reference, asked)
    finally:
        bar.close()
        records.restore_random_states(random_states)
    names = [task.grade, *(name for name in right if name != task.grade)]
    grades = {name: Grade.of(_sums(right[name], samples), samples, config.group_size) for name in names}
    verdict, reason, advice = judge(grades, task.grade, sum(cut) / len(cut))
    return Preflight(
        verdict=verdict,
        reason=reason,
        advice=advice,
        grade=task.grade,
        grades=grades,
        problems=len(drawn),
        samples=samples,
        group_size=config.group_size,
        max_new_tokens=config.max_new_tokens,
        mean_length=sum(lengths) / len(lengths),
        cut_off=sum(cut) / len(cut),
        steps=budget_steps,
        asked=asked,
        evaluation_hours=evaluation_hours,
        hours=budget_steps * cost.seconds / 3600 + evaluation_hours,
        cost=cost,
    )
