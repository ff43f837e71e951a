"""Statistics over seeds: against scipy's and hand-counted values, and by simulating how often they are right."""

import itertools
import math

import numpy
import pytest
from scipy import stats

from grpo_teach import InputError
from grpo_teach.studies.results import best_trials, changes, contrasts, difference, holm, interval, p_value, winner

WORLDS = 4000


def worlds(n: int, seed: int = 0) -> numpy.ndarray:
    """[worlds, n] normal draws with mean 3."""
    return numpy.random.default_rng(seed).normal(3.0, 2.0, (WORLDS, n))


def mostly_fine(random: numpy.random.Generator, *shape: int) -> numpy.ndarray:
    """Accuracies as of runs of which one in ten collapses."""
    return numpy.where(random.random(shape) < 0.1, 0.1, random.normal(0.95, 0.01, shape))


# Intervals --------------------------------------------------------------------------------------------------------


def test_the_interval_is_students():
    values = [0.91, 0.95, 0.93, 0.97]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval(values) == pytest.approx(tuple(expected))
    # By hand: mean 0.94, s = 0.0258199, s / 2 = 0.01290994, and t(3) = 3.182446.
    assert interval(values) == pytest.approx((0.94 - 0.0410849, 0.94 + 0.0410849), abs=1e-6)


def test_curves_get_an_interval_at_each_point():
    values = numpy.random.default_rng(0).normal(size=(6, 5))
    low, high = interval(values)
    assert low.shape == high.shape == (5,)
    assert (low[3], high[3]) == pytest.approx(interval(values[:, 3]))


def test_equal_values_have_an_interval_of_no_width_and_one_value_has_none():
    assert interval([0.7] * 5) == pytest.approx((0.7, 0.7))
    assert difference([0.2, 0.2], [0.5, 0.5, 0.5]) == pytest.approx((0.3, 0.3, 0.3))
    assert difference([0.2, 0.4], [0.5, 0.7], paired=True) == pytest.approx((0.3, 0.3, 0.3))
    with pytest.raises(InputError, match="two seeds"):
        interval([0.7])


@pytest.mark.parametrize("n", [3, 5, 10, 15])
def test_95_percent_intervals_hold_the_true_mean_in_95_of_100_worlds(n):
    low, high = interval(worlds(n).T)
    covered = float(((low <= 3) & (high >= 3)).mean())
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / WORLDS)


def test_where_runs_collapse_now_and_then_an_interval_covers_less_and_nobody_should_trust_five_seeds():
    random, truth = numpy.random.default_rng(1), 0.9 * 0.95 + 0.1 * 0.1
    for n, at_most in ((5, 0.6), (10, 0.9)):
        low, high = interval(mostly_fine(random, n, WORLDS))
        covered = float(((low <= truth) & (high >= truth)).mean())
        assert covered < at_most


@pytest.mark.parametrize("paired", [False, True])
def test_intervals_of_a_difference_hold_the_true_one_in_95_of_100_worlds(paired):
    random, right, number = numpy.random.default_rng(2), 0, 1500
    for _ in range(number):
        shared = random.normal(0, 3 * paired, 8)
        before, after = shared + random.normal(1, 1, 8), shared + random.normal(3, 4 if not paired else 1, 8)
        gap, low, high = difference(before, after, paired)
        assert gap == pytest.approx(after.mean() - before.mean())
        right += low <= 2 <= high
    assert abs(right / number - 0.95) < 4 * math.sqrt(0.95 * 0.05 / number)


def test_two_that_spread_differently_get_welchs_interval():
    before, after = [1.0, 2.0, 3.0], [5.0, 9.0, 1.0, 13.0, 7.0, 4.0]
    gap, low, high = difference(before, after)
    # By hand: variances 1 and 17.5; their shares of the squared error 1/3 and 17.5/6; df by Welch and Satterthwaite.
    shares = 1 / 3, 17.5 / 6
    df = sum(shares) ** 2 / (shares[0] ** 2 / 2 + shares[1] ** 2 / 5)
    reach = stats.t.ppf(0.975, df) * math.sqrt(sum(shares))
    assert (gap, low, high) == pytest.approx((4.5, 4.5 - reach, 4.5 + reach))
    pooled = stats.ttest_ind(after, before).confidence_interval(0.95)
    assert abs(pooled.low - low) > 0.5, "equal spreads would give another interval"


def test_a_pair_takes_out_what_its_runs_share():
    before = numpy.array([0.1, 0.5, 0.9, 0.3])
    after = before + [0.01, 0.02, 0.01, 0.02]
    assert difference(before, after, paired=True)[1] > 0
    assert difference(before, after)[1] < 0
    assert p_value(before, after, paired=True) == pytest.approx(2 / 2**4)


# Tests ------------------------------------------------------------------------------------------------------------


def by_hand(before: list, after: list) -> float:
    """The share of all ways to deal the numbers out whose gap is as large."""
    everything, seen = [*before, *after], abs(numpy.mean(after) - numpy.mean(before))
    gaps = []
    for chosen in itertools.combinations(range(len(everything)), len(before)):
        one = [everything[i] for i in chosen]
        other = [everything[i] for i in range(len(everything)) if i not in chosen]
        gaps.append(abs(numpy.mean(other) - numpy.mean(one)))
    return float(numpy.mean(numpy.array(gaps) >= seen - 1e-12))


def test_the_permutation_test_counts_every_way_to_deal():
    before, after = [0.1, 0.4, 0.35, 0.2], [0.5, 0.3, 0.9, 0.8]
    assert p_value(before, after) == pytest.approx(by_hand(before, after))
    assert p_value([0, 1, 2], [10, 11, 12]) == pytest.approx(2 / math.comb(6, 3))
    assert p_value(range(10), range(20, 30)) == pytest.approx(2 / math.comb(20, 10))
    unequal = [0, 0, 9], [1, 2, 3, 4, 5, 8, 12]
    assert p_value(*unequal) == pytest.approx(by_hand(*unequal))
    # Ten numbers whose sums tie exactly in thousandths and not in floating point, counted in whole numbers.
    random = numpy.random.default_rng(0)
    one, other = random.integers(930, 960, 6), random.integers(935, 965, 6)
    dealt = [abs(2 * sum(c) - sum(one) - sum(other)) for c in itertools.combinations([*one, *other], 6)]
    exact = numpy.mean(numpy.array(dealt) >= abs(sum(one) - sum(other)))
    assert p_value(one / 1000, other / 1000) == pytest.approx(exact, abs=1e-12)


def test_where_nothing_differs_one_test_in_twenty_says_it_does_even_where_runs_collapse():
    random, number = numpy.random.default_rng(3), 600
    alarms = 0
    for _ in range(number):
        runs = mostly_fine(random, 10)
        alarms += p_value(runs[:5], runs[5:]) <= 0.05
    assert alarms / number < 0.05 + 3 * math.sqrt(0.05 * 0.95 / number)


def test_a_small_p_says_that_two_are_not_alike_and_not_that_their_means_differ():
    random, number, alarms = numpy.random.default_rng(7), 200, 0
    for _ in range(number):
        steady = random.normal(0.9 * 0.95 + 0.1 * 0.1, 0.01, 6)  # the same mean as of those that collapse
        alarms += p_value(steady, mostly_fine(random, 6)) <= 0.05
    assert alarms / number > 0.2


def test_holm_multiplies_the_smallest_by_all_the_next_by_one_less_and_never_turns_back():
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})
    assert holm({"a": 0.5, "b": 0.9}) == pytest.approx({"a": 1.0, "b": 1.0})
    assert list(holm({"z": 0.2, "a": 0.1})) == ["z", "a"] and holm({}) == {}


def test_holm_keeps_a_whole_table_to_one_false_alarm_in_twenty():
    random = numpy.random.default_rng(4)
    tables = [holm(dict(enumerate(random.random(5)))) for _ in range(4000)]
    assert numpy.mean([min(table.values()) < 0.05 for table in tables]) < 0.06


def test_contrasts_set_every_other_against_one():
    random = numpy.random.default_rng(5)
    found = {name: list(random.normal(height, 0.1, 8)) for name, height in (("a", 0), ("b", 0.5), ("c", 0.02))}
    table = contrasts(found, "a")
    assert list(table) == ["b", "c"]
    assert (table["b"]["gap"], table["b"]["low"], table["b"]["high"]) == difference(found["a"], found["b"])
    assert table["b"]["p"] == p_value(found["a"], found["b"])
    assert table["b"]["holm"] == pytest.approx(2 * table["b"]["p"]) and table["c"]["holm"] == table["c"]["p"]


def test_changes_go_from_the_first_of_a_pair_to_the_second():
    random = numpy.random.default_rng(7)
    found = {name: list(random.normal(height, 0.1, 6)) for name, height in (("a", 0), ("b", 0.4), ("c", 0.5))}
    table = changes(found, {"first": ("a", "b"), "then": ("b", "c")}, paired=True)
    assert table["first"]["gap"] == pytest.approx(numpy.mean(found["b"]) - numpy.mean(found["a"]))
    assert table["then"]["gap"] == pytest.approx(numpy.mean(found["c"]) - numpy.mean(found["b"]))
    assert table["first"]["p"] == 2 / 2**6 and table["first"]["holm"] == 2 * table["first"]["p"]  # all six rose


def test_the_best_trial_of_a_family_has_every_seed_and_the_highest_mean():
    found = {"a 00": [0.9], "a 01": [0.5, 0.6], "a 02": [0.8, 0.4], "b x 00": [0.1, 0.1], "b x 01": [0.0]}
    assert best_trials(found) == {"a": "a 02", "b x": "b x 00"}


def test_a_winner_leads_every_other_by_more_than_chance():
    random = numpy.random.default_rng(6)
    found = {name: list(random.normal(height, 0.02, 6)) for name, height in (("low", 0.1), ("high", 0.9), ("mid", 0.5))}
    assert winner(found) == "high"
    assert winner(found | {"as high": [value - 0.001 for value in found["high"]]}) is None
    assert winner({"a": [0.1, 0.9, 0.5], "b": [0.2, 0.9, 0.6]}) is None
