"""Search at test time: one policy, one budget of generated tokens, and different ways to spend it on an answer."""

from __future__ import annotations

import copy
import itertools
import time
from collections import Counter, defaultdict
from dataclasses import dataclass

import torch

from grpo_teach import records
from grpo_teach.errors import InputError
from grpo_teach.policy import load_base
from grpo_teach.r1.desk import Desk, State
from grpo_teach.r1.stages import STAGES, Pipeline, Run
from grpo_teach.r1.tree import mcts
from grpo_teach.r1.value import learned_value
from grpo_teach.tasks.few_problems import Practice
from grpo_teach.tasks.miniature import Miniature
from grpo_teach.tasks.task import Problem

__all__ = ["METHODS", "Begun", "Search", "best", "majority_vote", "weighted_vote"]

Found = list[list[tuple[State, float]]]  # for each row its finished completions, in order, with their weights


def majority_vote(answers: list[str]) -> str:
    """The most frequent answer, of equally frequent ones the one said first; no answer is no vote.

    Args:
        answers: texts, an empty one where none was given.
    Returns:
        One of them; ``""`` if there is none.
    Source: Wang et al. (arXiv 2203.11171) section 2; what to do with equal numbers and empty answers is ours.
    """
    return weighted_vote([(answer, 1.0) for answer in answers])


def weighted_vote(candidates: list[tuple[str, float]]) -> str:
    """The answer whose weights have the largest sum, of equal ones the one said first; ``""`` is no vote."""
    sums: dict[str, float] = defaultdict(float)
    for answer, weight in candidates:
        if answer:
            sums[answer] += weight
    return max(sums, key=sums.get, default="")


def best(candidates: list[tuple[str, float]]) -> str:
    """The answer with the largest weight, of equal ones the one said first; ``""`` if there is none."""
    return max(candidates, key=lambda candidate: candidate[1], default=("", 0.0))[0]


@dataclass(frozen=True)
class Begun(Miniature):
    """Equations whose completion begins with a given text, as if it were part of the question.

    Attributes:
        begin: that text.
    """

    begin: str = ""

    def sample(self, n: int, generator: torch.Generator, split: str = "train") -> list[Problem]:
        """Draw n problems of one split."""
        return self._begun(super().sample(n, generator, split))

    def test_set(self, n: int) -> list[Problem]:
        """The held-out ones."""
        return self._begun(super().test_set(n))

    def _begun(self, problems: list[Problem]) -> list[Problem]:
        return [problem._replace(prompt=problem.prompt + self.begin) for problem in problems]


# Ways to spend the budget: each gives every row's finished completions, with a weight ---------------------------------


def one(desk: Desk, search: Search) -> Found:
    """One completion a row."""
    return [[(state, 1.0) for state in drawn] for drawn in desk.draw(desk.solvent(), 1, whole=True)]


def sampled(desk: Desk, search: Search) -> Found:
    """As many whole completions as the budget allows, weighted by their values."""
    found: Found = [[] for _ in desk.spent]
    while rows := desk.solvent():
        drawn = [state for states in desk.draw(rows, max(1, desk.budget // 32), whole=True) for state in states]
        for state, value in zip(drawn, desk.judge(drawn), strict=True):
            found[state[0]].append((state, value))
    return found


def beams(desk: Desk, search: Search) -> Found:
    """Step by step: of some steps sampled from each prefix in the beam those of the largest value go on.

    What has ended keeps its place in the beam while it is among the best. When all in a beam have ended, the next
    begins. All completions that ended on the way are weighted by their values.
    Source: Snell et al. (arXiv 2408.03314), beam search against a process reward model; here the value has learned
        from how texts end, and equal steps count once.
    """
    found: Found = [[] for _ in desk.spent]
    while rows := desk.solvent():
        beam = {state[0]: [(state, 0.0)] for state in rows}
        while growing := [state for kept in beam.values() for state, _ in kept if not desk.over(state)]:
            drawn = list(dict.fromkeys(state for states in desk.draw(growing, search.beam_steps) for state in states))
            pools = {row: [kept for kept in beam[row] if desk.over(kept[0])] for row in beam}
            for state, value in zip(drawn, desk.judge(drawn), strict=True):
                pools[state[0]].append((state, value))
                if desk.over(state):
                    found[state[0]].append((state, value))
            beam = {row: sorted(pool, key=lambda kept: -kept[1])[: search.beam_width] for row, pool in pools.items()}
    return found


def trees(desk: Desk, search: Search) -> Found:
    """Monte-Carlo tree search, one tree after the other; children are the different steps sampled at a node.

    A child's prior is its share of them. A completion weighs what the value says of it, as in the other ways; one that
    no simulation came to weighs nothing.
    Source: as :func:`grpo_teach.r1.tree.mcts`; actions that are sampled, Hubert et al. (arXiv 2104.06303).
    """
    found: Found = [[] for _ in desk.spent]

    def expand(states: list[State]) -> list[list[tuple[State, float]]]:
        drawn = [Counter(after) for after in desk.draw(states, search.node_steps)]
        return [[(state, n / counts.total()) for state, n in counts.items()] for counts in drawn]

    while rows := desk.solvent():
        for tree in mcts(rows, expand, desk.judge, search.simulations, search.c_puct):
            found[tree.state[0]] += [(node.state, node.judged or 0.0) for node in tree.below() if desk.over(node.state)]
    return found


# By name: how completions are found, and how one answer is chosen. "rule" is told which are right.
METHODS = {
    "one": (one, best),
    "majority": (sampled, lambda candidates: majority_vote([answer for answer, _ in candidates])),
    "best_of_n": (sampled, best),
    "weighted": (sampled, weighted_vote),
    "rule": (sampled, best),
    "beam_best": (beams, best),
    "beam": (beams, weighted_vote),
    "mcts_best": (trees, best),
    "mcts": (trees, weighted_vote),
}


@dataclass(frozen=True)
class Search:
    """The held-out equations, each asked several times by each method within each budget.

    Attributes:
        base: a shipped base's name.
        rl_tokens: of R1-Zero that the policy is trained with first; 0 searches with the base itself.
        begin: what every completion begins with, given with the question and not counted: ``<think>0:`` leaves only the
            long way, digit by digit from 0.
        methods: names in ``METHODS``, with spaces between. ``one`` spends what one completion takes.
        budgets: generated tokens a problem, with spaces between.
        asks: independent searches for each of the 64 equations.
        value_tokens: that the value learns from, written for training problems; they are counted apart.
        beam_steps, beam_width: steps sampled from a prefix, and prefixes that go on.
        node_steps: steps sampled at a node of a tree.
        simulations: in each tree.
        c_puct: weight of the bonus in a tree, in units of value.
        practice: ask training problems in place of the held-out ones: for choosing settings.
    """

    base: str = "miniature"
    rl_tokens: int = 0
    begin: str = ""
    methods: str = " ".join(METHODS)
    budgets: str = "32 64 128 256 512"
    asks: int = 2
    value_tokens: int = 200_000
    beam_steps: int = 3
    beam_width: int = 1
    node_steps: int = 3
    simulations: int = 32
    c_puct: float = 0.3
    practice: bool = False

    def __post_init__(self):
        if unknown := set(self.methods.split() or [""]) - METHODS.keys():
            raise InputError(f"no method {min(unknown)!r}; there are: {', '.join(METHODS)}")
        numbers = self.asks, self.beam_steps, self.beam_width, self.node_steps, self.simulations
        if min(*numbers, *map(int, self.budgets.split() or [0])) < 1 or self.c_puct < 0:
            raise InputError("budgets, asks, steps, width and simulations are at least 1, and c_puct is not negative")

    def run(self, seed: int, progress: bool = False, policy=None) -> dict:
        """Train the value, and search.

        Args:
            seed: of everything random.
            progress: show bars.
            policy: that searches, where it is not the base.
        Returns:
            Plain numbers. ``rows``: for each method and budget the ``accuracy``; ``by_solution``, that of equations
            whose smallest solution is 0, 1, ... 9; ``tokens_a_problem`` generated; ``judged_a_problem``, different
            texts that the value read. ``curve``: the accuracies, one list a method beside the list ``budget``.
            ``accuracy``: of the last method at the last budget. ``tokens``: of all searches; ``value_tokens`` and
            ``rl_tokens``: before them. ``seconds``: of all.
        """
        start, (base, tokenizer), task = time.perf_counter(), load_base(self.base), Begun(begin=self.begin)
        zero = Run(
            base, tokenizer, Pipeline(self.base, "zero", tokens=self.rl_tokens), seed, copy.deepcopy(policy or base)
        )
        if self.rl_tokens:
            STAGES["zero"](zero, progress)
        records.seed_everything(seed)
        learnt = zero.policy, tokenizer, task, self.value_tokens, torch.Generator().manual_seed(seed)
        value, value_tokens = learned_value(*learnt, progress=progress)
        tested = Practice(task) if self.practice else task
        problems = [problem for problem in tested.test_set(64) for _ in range(self.asks)]
        firsts = [min(x for x in range(10) if task.right(str(x), problem)) for problem in problems]
        methods, budgets, rows, tokens = self.methods.split(), list(map(int, self.budgets.split())), [], 0
        bar = records.bar("search", "search", len(methods) * len(budgets), progress=progress)
        for budget, method in itertools.product(budgets, methods):
            find, choose = METHODS[method]
            if method == methods[0]:
                searched = {}  # methods that differ in their choice alone choose from the same completions
            if find not in searched:
                limit = task.max_new_tokens if find is one else budget
                desk = Desk(zero.policy, tokenizer, value, [p.prompt for p in problems], limit, task.max_new_tokens)
                searched[find] = desk, [[(desk.answer(s), weight) for s, weight in row] for row in find(desk, self)]
                tokens += sum(desk.spent)
            desk, found = searched[find]
            if method == "rule":
                pairs = zip(found, problems, strict=True)
                found = [[(answer, task.right(answer, problem)) for answer, _ in row] for row, problem in pairs]
            right = [task.right(choose(row), problem) for row, problem in zip(found, problems, strict=True)]
            row = {"accuracy": _mean(right), "tokens_a_problem": _mean(desk.spent)}
            row |= {"judged_a_problem": records.short(len(desk.known) / len(problems))}
            row["by_solution"] = [_mean([r for r, x in zip(right, firsts, strict=True) if x == d]) for d in range(10)]
            rows.append({"method": method, "budget": budget} | row)
            bar.update()
        bar.close()
        curve = {"budget": budgets}
        curve |= {method: [row["accuracy"] for row in rows if row["method"] == method] for method in methods}
        ended = {"seed": seed, "accuracy": rows[-1]["accuracy"], "tokens": tokens, "value_tokens": value_tokens}
        ended |= {"rl_tokens": zero.tokens, "seconds": round(time.perf_counter() - start, 3)}
        return ended | {"rows": rows, "curve": curve}


def _mean(numbers: list[float]) -> float:
    return records.short(sum(numbers) / max(1, len(numbers)))
