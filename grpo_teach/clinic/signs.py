"""The signs that the doctor looks for: each has a reason and one threshold, and none was fitted to a bug.

A sign is a function of a run that returns its evidence, the curve and the number, or None.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy

from grpo_teach.clinic.curves import Run

__all__ = ["SIGNS"]

SIGNS: dict[str, Callable[[Run], str | None]] = {}  # in the order in which they are reported
UNLIKELY = 4.0  # standard errors: one healthy window in some ten thousand lies so far off by chance


def sign(look: Callable) -> Callable:
    SIGNS[look.__name__] = look
    return look


def _answers(run: Run, unknown: int) -> float:
    return run.setting("prompts", 1) * run.setting("group_size", unknown)


def _on_policy(run: Run) -> bool:
    return run.setting("epochs") == run.setting("minibatches") == 1


@sign
def not_finite(run: Run) -> str | None:
    """A number that is none: what follows from it is lost."""
    for step, row in enumerate(run.rows):
        for name, value in row.items():
            if not math.isfinite(value):
                return f"{name} is {value} at step {step}"


@sign
def scoring_differs(run: Run, most: float = 1e-6) -> str | None:
    """With one step a batch nothing has moved when it is scored: ``old_kl`` is what rounding leaves, 1e-11 at most.

    At step 0 policy and reference are one, unless an adapter had learnt before: then ``kl`` is rounding too.
    In 16 bits rounding leaves up to some thousandths: there ``most`` is 20,000 times as large.
    """
    most *= 20_000 if "16" in str(run.config.get("dtype")) else 1
    bad = numpy.flatnonzero(run["old_kl"] > most)
    if _on_policy(run) and len(bad) >= 2:
        middle = numpy.median(run["old_kl"][bad])
        return f"old_kl is {middle:.2g} nats a token (median of {len(bad)} steps, the first is {bad[0]}), not 0"
    if run["step"][0] == 0 and run["kl"][0] > most and run.config and "lora_alpha" not in run.config:
        return f"kl is {run['kl'][0]:.2g} nats a token at step 0, where policy and reference are one"


@sign
def nothing_paid(run: Run, answers: int = 500) -> str | None:
    """A reward that no longer varies holds nothing to learn from, unless it is the highest and was earned.

    Of 500 answers a policy that is right once in a hundred times would have had one paid.
    """
    reward = run.known("reward")
    since = max([*numpy.flatnonzero(numpy.diff(reward)) + 1, 0])  # the step from which on it is the same
    same = len(reward) - since
    enough = same >= max(5, len(reward) / 2) and same * _answers(run, unknown=25) >= answers
    if enough and (since == 0 or reward[-1] < reward.max()):
        return f"reward is {reward[-1]:g} at each of the last {same} steps"


@sign
def no_gradient(run: Run, share: float = 0.5) -> str | None:
    """Where answers of one prompt are paid differently there is a gradient."""
    mixed = run["mixed_groups"] > 0
    mixed[: int(run.setting("critic_warmup", 0))] = False
    lost = int((run["grad_norm"][mixed] == 0).sum())
    if lost >= 3 and lost > share * mixed.sum():
        return f"grad_norm is 0 at {lost} of the {int(mixed.sum())} steps with groups of unequal rewards"


@sign
def negative_likelihood(run: Run, least: float = -1e-6) -> str | None:
    """SFT's loss is minus a log-probability, which is never positive."""
    lowest = min([*run.known("loss"), math.inf])
    if str(run.config.get("algorithm", "")).startswith("SFT") and lowest < least:
        return f"loss falls to {lowest:.3g}; minus a log-probability is at least 0"


@sign
def reward_falls(run: Run, kept: float = 0.5) -> str | None:
    """Training on a reward should not lower it: the last fifth of the steps against the best as long, or the first."""
    reward, size = run.known("reward"), max(3, len(run.rows) // 5)
    if len(reward) < 2 * size:
        return None
    means, zero = numpy.convolve(reward, numpy.ones(size) / size, "valid"), min(0.0, reward.min())
    best, steps = max((means.max(), size), (reward[0], 1))
    noise = max(numpy.square(numpy.diff(reward[-2 * size :])).mean() / 2, best * (1 - best) / _answers(run, unknown=1))
    if means[-1] - zero < kept * (best - zero) and best - means[-1] > UNLIKELY * math.sqrt(
        noise / steps + noise / size
    ):
        return f"reward falls from {best:.3g} (mean of {steps} steps) to {means[-1]:.3g} in the last {size}"


@sign
def accuracy_falls(run: Run, kept: float = 0.5) -> str | None:
    """Nor should it lower the share of held-out problems answered right."""
    accuracy, asked = run.known("accuracy"), run.known("graded")
    if len(accuracy) >= 2 and len(asked):
        best, last = accuracy.max(), accuracy[-1]
        if last < kept * best and best - last > UNLIKELY * math.sqrt(2 * best * (1 - best) / max(1, asked[-1])):
            return f"accuracy falls from {best:.3g} to {last:.3g} of {asked[-1]:g} held-out problems"


@sign
def kl_at_rest(run: Run, times: float = 3.0) -> str | None:
    """A policy that learns leaves its reference, further than what rounding shows at step 0.

    Where no other curve moves either, 1e-6 nats a token (1e-4 in 16 bits) are rest enough.
    """
    kl = run.known("kl")
    if len(kl) >= 8 and (run["grad_norm"] > 0).any() and "lora_alpha" not in run.config:
        moved = [n for n in ("reward", "entropy", "length", "thinks") if abs(run.change(n)) > UNLIKELY]
        least = 1e-11 if moved else 1e-4 if "16" in str(run.config.get("dtype")) else 1e-6
        late = numpy.median(kl[len(kl) // 2 :]) if moved or len(kl) >= 20 else math.inf
        if late < max(least, times * min(kl[0], 0.01)):
            seen = f"while {', '.join(moved)} moved" if moved else "and neither reward, entropy nor length moved"
            return f"kl is {late:.2g} nats a token in the later half, {kl[0]:.2g} at the start, {seen}"


@sign
def nothing_moves(run: Run, least: float = 2.0, steps: int = 20) -> str | None:
    """Gradients, and yet no curve differs between the first steps and the last: for runs that note no KL."""
    changes = {name: run.change(name) for name in ("reward", "entropy", "length")}
    if len(run.known("kl")) or len(run.rows) < steps or not (run["grad_norm"] > 0).any():
        return None
    if all(abs(change) < least for change in changes.values()):
        return ", ".join(f"{name} moved by {change:.1f}" for name, change in changes.items()) + " standard errors"


@sign
def kl_far(run: Run, most: float = 3.0) -> str | None:
    """At 3 nats a token the base model gives what is now written a twentieth of its probability, token by token."""
    if run.ends("kl")[1] > most:
        return f"kl is {run.ends('kl')[1]:.2g} nats a token in the last fifth of the steps"


@sign
def far_from_samples(run: Run, most: float = 0.5) -> str | None:
    """Several steps on a batch may move the policy, but not most of the batch's tokens out of the clip's range."""
    clipped, moved = run.ends("clip_fraction")[1], run.ends("old_kl")[1]
    if not _on_policy(run) and (clipped > most or moved > most):
        return f"in the last fifth of the steps clip_fraction is {clipped:.2g}, old_kl {moved:.2g} nats a token"


@sign
def gradient_always_cut(run: Run, times: float = 5.0) -> str | None:
    """A gradient that is cut at each step has lost its length: what the loss weighs no longer counts."""
    middle, longest = run.middle("grad_norm"), run.setting("max_grad_norm")
    if len(run.rows) >= 5 and middle > times * longest:
        return f"half of the steps have a grad_norm above {middle:.3g}, and it is cut to {longest:g}"


@sign
def gradient_grows(run: Run, times: float = 10.0) -> str | None:
    """The nearer to a good policy, the smaller the gradient; a single long one is no growth."""
    known = run["grad_norm"][run["grad_norm"] > 0]
    size = max(3, len(known) // 5)
    first, last = (numpy.median(part) if len(known) >= 2 * size else 0.0 for part in (known[:size], known[-size:]))
    if last > times * first and last > 5 * run.setting("max_grad_norm", 1.0):
        return f"grad_norm grows from {first:.2g} to {last:.2g} (medians of {size} steps)"


@sign
def entropy_gone(run: Run, kept: float = 0.1) -> str | None:
    """The policy is sure of itself, and was not paid for it."""
    (first, last), (paid, later) = run.ends("entropy"), run.ends("reward")
    if last < kept * first and run.change("reward") < UNLIKELY and later < min(0.8, max(1.5 * paid, paid + 0.1)):
        return f"entropy falls from {first:.2g} to {last:.2g} nats a token, and the reward does not rise"


@sign
def entropy_rises(run: Run, times: float = 1.5) -> str | None:
    """Being paid for some answers makes a policy surer, not less sure."""
    first, last = run.ends("entropy")
    if last > times * first and run.change("entropy") > UNLIKELY and not run.change("reward") > UNLIKELY:
        return f"entropy rises from {first:.2g} to {last:.2g} nats a token"


@sign
def length_at_limit(run: Run, share: float = 0.95) -> str | None:
    """Where the mean length is the limit, completions do not end: they are cut off."""
    limit, last = run.setting("max_new_tokens"), run.ends("length")[1]
    if last >= share * limit and limit > 1 and not run.ends("reward")[1] > 0.8:
        return f"length is {last:.3g} tokens in the last fifth of the steps, and the limit {limit:g}"


@sign
def thinking_dies(run: Run, kept: float = 0.5) -> str | None:
    """Working step by step is given up, and the reward is none the better for it."""
    first, last = run.ends("thinks")
    if last < kept * first and run.change("thinks") < -UNLIKELY and run.change("reward") < UNLIKELY:
        return f"thinks falls from {first:.2g} to {last:.2g} of the completions, and the reward does not rise"


@sign
def few_mixed_groups(run: Run, least: float = 0.1, groups: int = 100) -> str | None:
    """GRPO learns from groups of unequal rewards alone."""
    mixed, reward = run.known("mixed_groups"), run.known("reward")
    if run.config.get("algorithm") != "GRPO" or len(mixed) * run.setting("prompts", 1) < groups or not len(reward):
        return None
    if mixed.mean() < least and len({*reward}) > 1 and reward.max() <= 0.8:
        return f"on average {mixed.mean():.2g} of the groups have unequal rewards (mixed_groups)"


@sign
def graded_otherwise(run: Run, most: float = 0.15) -> str | None:
    """At the same step the same policy is paid and graded: unless the reward is another, both agree."""
    return None if "reward" in run.config else _beside(run, "reward", "accuracy", most, numpy.subtract)


@sign
def length_otherwise(run: Run, most: float = 0.25) -> str | None:
    """At the same step training's completions are as long as the evaluation's."""
    return _beside(run, "length", "graded_length", most, lambda a, b: numpy.log(a / b))


def _beside(run: Run, trained: str, graded: str, most: float, apart: Callable) -> str | None:
    both = numpy.flatnonzero(numpy.isfinite(run[trained]) & numpy.isfinite(run[graded]))
    if not len(both):
        return None
    gaps = apart(run[trained], run[graded])[both]
    steps = apart(run.known(trained)[1:], run.known(trained)[:-1])
    noise = math.sqrt(numpy.square(steps).mean() / len(both)) if len(steps) else math.inf
    if abs(gaps.mean()) > most + UNLIKELY * noise:
        means = run[trained][both].mean(), run[graded][both].mean()
        return f"{trained} is {means[0]:.3g} where evaluations find {means[1]:.3g} (means of {len(both)} such steps)"


@sign
def paid_not_right(run: Run, follows: float = 0.25) -> str | None:
    """What is paid rises, and the share of held-out problems answered right does not follow."""
    known, (first, last) = run.known("accuracy"), run.ends("reward")
    if len(known) >= 3 and run.change("reward") > UNLIKELY and last - first > max(0.1, 0.5 * abs(first)):
        gain, asked = known[-max(1, len(known) // 3) :].mean() - known[0], min([*run.known("graded"), 1000])
        chance = math.sqrt(max(0.0, 2 * known[0] * (1 - known[0])) / max(1, asked))
        if gain + chance < follows * min(last - first, 1.0):
            return f"reward rises from {first:.3g} to {last:.3g}, accuracy from {known[0]:.3g} by {gain:.3g}"


@sign
def no_progress(run: Run, steps: int = 30) -> str | None:
    """So many steps with unequal rewards to learn from, and the reward is where it was.

    Where a rise by 0.1 would drown in the noise, nothing is said.
    """
    first, last = run.ends("reward")
    if not run.noise("reward") < 0.05:
        return None
    if len(run.rows) >= steps and run.change("reward") < 2 and run.middle("mixed_groups") > 0.1 and not last > 0.8:
        return f"reward is {first:.3g} in the first fifth of {len(run.rows)} steps and {last:.3g} in the last"
