"""Intervals and pass@k against scipy and brute force; evaluation on a policy whose answers are known."""

import importlib
import itertools

import pytest
import torch
from scipy import stats

from grpo_teach import ChainSum, InputError, Problem, evaluate, from_text, pass_at_k, sample, wilson_interval

MODULE = importlib.import_module("grpo_teach.evaluate")  # the package's own name of this is the function

# Intervals and pass@k ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("right, n", [(0, 1), (1, 1), (0, 20), (20, 20), (3, 10), (128, 512), (255, 1024)])
def test_wilson_interval_equals_scipys(right, n):
    theirs = stats.binomtest(right, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson_interval(right / n, n) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_wilson_interval_solves_its_own_definition():
    # The bounds are the p at which the observed share lies exactly z standard errors away.
    low, high = wilson_interval(0.3, 50, z=2.5)
    for p in (low, high):
        assert abs(0.3 - p) == pytest.approx(2.5 * (p * (1 - p) / 50) ** 0.5)


@pytest.mark.parametrize("share, n", [(0.5, 0), (-0.1, 10), (1.1, 10), (float("nan"), 10)])
def test_wilson_interval_refuses_what_is_no_share(share, n):
    with pytest.raises(ValueError):
        wilson_interval(share, n)


@pytest.mark.parametrize("n, k", [(n, k) for n in range(1, 7) for k in range(1, n + 1)])
def test_pass_at_k_counts_the_subsets_that_hold_a_right_answer(n, k):
    for right in range(n + 1):
        subsets = list(itertools.combinations([True] * right + [False] * (n - right), k))
        assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_is_unbiased():
    # Averaged over the binomial number of right answers among n, it is 1 - (1 - p)^k exactly.
    n, p = 8, 0.3
    for k in (1, 2, 4, 8):
        mean = sum(stats.binom.pmf(c, n, p) * pass_at_k(n, c, k) for c in range(n + 1))
        assert mean == pytest.approx(1 - (1 - p) ** k)


@pytest.mark.parametrize("n, right, k", [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5), (0, 0, 1)])
def test_pass_at_k_refuses_impossible_counts(n, right, k):
    with pytest.raises(ValueError, match="right"):
        pass_at_k(n, right, k)


# Evaluation -------------------------------------------------------------------------------------------------------


PROBLEMS = [Problem("1+1=", "2"), Problem("1+2=", "3"), Problem("2+2=", "4")]
TEXTS = [
    *["2", "<think>1+1=2;</think>2", "3", ""],  # two of four right
    *["7", "8", "<think>1", "33"],  # none
    *["4", "4", "4", "<think></think>4"],  # all
]


class Fixed(ChainSum):
    def test_set(self, n):
        return PROBLEMS[:n]


@pytest.fixture
def scripted(monkeypatch, tokenizer):
    """Instead of sampling, give the texts above; the list of prompts asked is returned."""
    asked = []

    def script(policy, tokenizer, prompts, samples, max_new_tokens, temperature):
        rows = [prompt for prompt in prompts for _ in range(samples)]
        texts = TEXTS[len(asked) * 4 :][: len(rows)]
        asked.extend(prompts)
        return from_text(tokenizer, rows, texts)

    monkeypatch.setattr(MODULE, "sample", script)
    return asked


@pytest.mark.parametrize("rows_a_call", [4, 8, 512])
def test_evaluation_by_hand(scripted, monkeypatch, tokenizer, rows_a_call):
    monkeypatch.setattr(MODULE, "ROWS_A_CALL", rows_a_call)
    result = evaluate(None, tokenizer, Fixed(2), problems=3, samples=4)
    assert scripted == [problem.prompt for problem in PROBLEMS]
    assert result.accuracy == pytest.approx((2 + 0 + 4) / 12)
    # pass@2 of two right in four: 1 - C(2,2)/C(4,2) = 5/6.
    assert result.pass_at_k == pytest.approx({1: (0.5 + 0 + 1) / 3, 2: (5 / 6 + 0 + 1) / 3, 4: (1 + 0 + 1) / 3})
    assert result.interval == wilson_interval(result.accuracy, 3), "three independent problems, not twelve samples"
    assert result.thinks == pytest.approx(3 / 12)
    tokens = [1, 9, 1, 0, 1, 1, 2, 2, 1, 1, 1, 3]  # of each text, a tag being one
    assert result.mean_length == pytest.approx((sum(tokens) + 12) / 12), "the end counts"
    assert (result.problems, result.samples, result.temperature) == (3, 4, 1.0)


def test_evaluation_asks_the_fixed_test_set_in_order(monkeypatch, policy, tokenizer):
    asked = []

    def spy(policy, tokenizer, prompts, *arguments):
        asked.extend(prompts)
        return sample(policy, tokenizer, prompts, *arguments)

    monkeypatch.setattr(MODULE, "sample", spy)
    evaluate(policy, tokenizer, ChainSum(3), problems=600, max_new_tokens=2)  # more than one call's worth
    assert asked == [problem.prompt for problem in ChainSum(3).test_set(600)]


def test_the_same_seed_gives_the_same_evaluation_and_touches_no_random_state(policy, tokenizer):
    random_state = torch.get_rng_state()
    results = [evaluate(policy, tokenizer, ChainSum(2), 64, max_new_tokens=8, seed=s).as_dict() for s in (0, 0, 1)]
    assert torch.equal(random_state, torch.get_rng_state())
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize(
    "keywords", [{"problems": 0}, {"samples": 0}, {"max_new_tokens": 0}, {"temperature": 0.0}, {"temperature": -1.0}]
)
def test_impossible_requests_are_refused_by_name(policy, tokenizer, keywords):
    (name,) = keywords
    with pytest.raises(InputError, match=name):
        evaluate(policy, tokenizer, ChainSum(2), **keywords)


def test_pass_at_k_never_falls_with_k(base):
    result = evaluate(base.policy, base.tokenizer, ChainSum(3), problems=32, samples=8)
    values = list(result.pass_at_k.values())
    assert list(result.pass_at_k) == [1, 2, 4, 8] and values == sorted(values)
    assert result.pass_at_k[1] == pytest.approx(result.accuracy)
