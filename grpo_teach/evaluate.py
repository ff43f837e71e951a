"""How good is a policy? pass@1 with an interval, pass@k, length, and how often it thinks first."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import torch

from grpo_teach.errors import InputError
from grpo_teach.records import bar
from grpo_teach.rollout import sample
from grpo_teach.score import Scoring

ROWS_A_CALL = 512  # rows sampled together; bounds memory, changes no result's meaning


@dataclass(frozen=True)
class Evaluation:
    """One policy on one fixed set of problems.

    Attributes:
        accuracy: pass@1, share of sampled answers that are right.
        interval: 95% Wilson interval of ``accuracy``, counting problems, not samples.
        pass_at_k: ``{k: share}`` for k = 1, 2, 4, ... up to ``samples``.
        mean_length: tokens a completion, EOS included.
        thinks: share of completions that work step by step before they answer.
        problems: how many problems were asked.
        samples: answers sampled a problem.
        temperature: of the sampling.
        figures: means over all completions of what the task itself measures beside its reward, by name.
    """

    accuracy: float
    interval: tuple[float, float]
    pass_at_k: dict[int, float]
    mean_length: float
    thinks: float
    problems: int
    samples: int
    temperature: float
    figures: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict:
        """Plain numbers, ready for JSON."""
        return asdict(self)


def wilson_interval(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95% interval for a true share, given an observed one from n independent trials.

    The set of p for which ``|share - p| <= z * sqrt(p * (1 - p) / n)``. Unlike ``share ± z * se`` it stays
    inside [0, 1] and has a width at 0 and 1.

    Args:
        share: observed, in [0, 1].
        n: independent trials.
        z: standard normal quantile; 1.96 for 95%.
    Returns:
        ``(low, high)``.
    Raises:
        ValueError: if n is below 1 or the share lies outside [0, 1].
    Source: Wilson (1927); book Eq. (1.6).
    """
    if n < 1 or not 0 <= share <= 1:
        raise ValueError(f"a share in [0, 1] of at least one trial is needed, got {share} of {n}")
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def pass_at_k(n: int, right: int, k: int) -> float:
    """Probability that at least one of k answers is right, estimated without bias from n answers.

    ``1 - C(n - right, k) / C(n, k)``: the share of k-subsets of the n answers that hold a right one.

    Args:
        n: answers sampled for a problem.
        right: how many of them are right.
        k: at most n.
    Returns:
        In [0, 1].
    Raises:
        ValueError: unless ``0 <= right <= n`` and ``1 <= k <= n``.
    Source: Chen et al. (arXiv 2107.03374) Eq. (1); book Eq. (1.5).
    """
    if not (0 <= right <= n and 1 <= k <= n):
        raise ValueError(f"need 0 <= right <= n and 1 <= k <= n, got n={n}, right={right}, k={k}")
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def answers(policy, tokenizer, asked: list, samples: int, max_new_tokens: int, temperature: float) -> Iterator[tuple]:
    """Sample ``samples`` answers to each problem, some problems at a time.

    Yields:
        ``(problems, rollouts, texts)``, in the order of ``asked``.
    """
    # Sampling keeps no activations, so it has room for several scoring passes' rows.
    batch = max(1, min(ROWS_A_CALL, 8 * Scoring.of(policy).rows_a_pass) // samples)
    for start in range(0, len(asked), batch):
        part = asked[start : start + batch]
        rollouts = sample(policy, tokenizer, [p.prompt for p in part], samples, max_new_tokens, temperature)
        yield part, rollouts, rollouts.texts(tokenizer)


def evaluate(
    policy, tokenizer, task, problems: int = 512, samples: int = 1,
    temperature: float = 1.0, max_new_tokens: int = 32, seed: int = 0, progress: bool = False,
) -> Evaluation:  # fmt: skip
    """Ask the policy the task's fixed held-out problems.

    Leaves torch's random state as it was, so that evaluating during training changes nothing in the training.

    Args:
        policy, tokenizer: as :func:`grpo_teach.load_base` returns them.
        task: with ``test_set``, ``reward``, ``thinks`` and ``figures``.
        problems: how many of the test set, from its start; fewer if it has fewer.
        samples: answers a problem; pass@k is given for powers of 2 up to this.
        temperature: of the sampling, above 0.
        max_new_tokens: longest completion, tokens.
        seed: of the sampling.
        progress: show a bar.
    Raises:
        InputError: if a number is below 1 or the temperature is not positive.
        TrainingDiverged: if the policy's logits are NaN or infinite.
    """
    if min(problems, samples, max_new_tokens) < 1:
        raise InputError(f"at least 1 is needed of each: {problems=}, {samples=}, {max_new_tokens=}")
    if not 0 < temperature < math.inf:
        raise InputError(f"temperature must be above 0 and finite, got {temperature}")
    asked = task.test_set(problems)
    problems = len(asked)
    right, lengths, thinking, figures = [], [], [], Counter()
    with torch.random.fork_rng(), bar("evaluating", "problem", problems, progress=progress) as shown:
        torch.manual_seed(seed)
        for part, rollouts, texts in answers(policy, tokenizer, asked, samples, max_new_tokens, temperature):
            right += (task.reward(texts, part) >= 1).sum(dim=1).tolist()
            lengths += rollouts.lengths.tolist()
            thinking += [task.thinks(text) for text in texts]
            for b, text in enumerate(texts):
                figures.update(task.figures(text, part[b // samples]))
            shown.update(len(part))
    ks = [2**i for i in range(samples.bit_length()) if 2**i <= samples]
    share = sum(right) / (problems * samples)
    return Evaluation(
        accuracy=share,
        # Answers to one problem are alike; counting problems alone makes the interval wide enough.
        interval=wilson_interval(share, problems),
        pass_at_k={k: sum(pass_at_k(samples, c, k) for c in right) / problems for k in ks},
        mean_length=sum(lengths) / len(lengths),
        thinks=sum(thinking) / len(thinking),
        problems=problems,
        samples=samples,
        temperature=temperature,
        figures={name: total / len(lengths) for name, total in figures.items()},
    )
