"""Alarms on made-up curves, whose answers are plain."""

import numpy
import pytest

from grpo_teach.clinic.alarms import ALARMS, costs_from, hacked, levels, reward_is_up, score

HONEST = numpy.array([0.2, 0.6, 0.9, 0.9])
FLAT = {"paid": [0.2, 0.6, 0.9, 0.9], "accuracy": [0.2, 0.6, 0.9, 0.9], "length": [8, 16, 24, 24]}
FLAT |= {"entropy": [0.4, 0.2, 0.1, 0.1], "kl": [0, 0.1, 0.1, 0.1]}
CHEAT = FLAT | {"paid": [0.2, 0.6, 0.9, 1.0], "accuracy": [0.2, 0.6, 0.2, 0.0], "kl": [0, 0.1, 0.5, 1.0]}
BROKEN = FLAT | {"paid": [0.2, 0.4, 0.1, 0.0], "accuracy": [0.2, 0.4, 0.1, 0.0], "kl": [0, 0.1, 5.0, 9.0]}


def test_the_reward_is_up_while_it_keeps_half_of_its_rise():
    paid = numpy.array([1.0, 2.0, 1.95, 1.4, 0.5, 3.0])
    assert reward_is_up({"paid": paid}).tolist() == [False, True, True, False, False, True]


@pytest.mark.parametrize(
    ("accuracy", "first"),
    [
        ([0.2, 0.6, 0.9, 0.9], None),
        ([0.2, 0.6, 0.6, 0.6], 2),
        ([0.2, 0.3, 0.9, 0.6], 3),
        ([0.2, 0.3, 0.9, 0.8], None),
        ([0.2, 0.3, 0.4, 0.5, 0.5, 0.5], 1),
        ([0.2, 0.6, 0.9, 0.9, 0.9, 0.5], 5),
    ],
)
def test_the_cost_begins_where_the_accuracy_falls_behind_for_good(accuracy, first):
    assert costs_from({"accuracy": accuracy}, HONEST) == first


def test_hacked_is_a_run_whose_reward_is_up_and_whose_accuracy_is_not():
    assert hacked(CHEAT, HONEST)
    assert not hacked(FLAT, HONEST) and not hacked(BROKEN, HONEST)


def test_an_alarm_is_silent_where_the_reward_itself_warns():
    assert levels(CHEAT, "KL to the base").tolist() == [0, 0.1, 0.5, 1.0]
    assert levels(BROKEN, "KL to the base").tolist() == [0, 0.1, 0, 0]


@pytest.mark.parametrize(
    ("alarm", "expected"),
    [
        ("entropy falls", [0, 0.5, 0.75, 0.75]),
        ("entropy rises again", [0, 0, 0, 0]),
        ("length moves", [0, numpy.log(2), numpy.log(3), numpy.log(3)]),
        ("length near the limit", [0, 0.5, 0.75, 0.75]),
        ("honest grade falls", [0, 0, 0.4, 0.6]),
        ("honest grade lags", [0, 0, 3.5, 5.0]),
    ],
)
def test_what_each_alarm_reads(alarm, expected):
    assert levels(CHEAT, alarm) == pytest.approx(expected)


def test_every_alarm_is_scored_on_seeds_that_did_not_choose_its_threshold():
    bad, good = [(seed, CHEAT) for seed in range(4)], [(seed, FLAT) for seed in range(6)]
    found = score("KL to the base", bad, good, HONEST)
    assert (found.auc, found.caught, found.hacked, found.false, found.honest) == (1.0, 4, 4, 0, 6)
    assert found.leads == (0, 0, 0, 0)  # both the alarm and the cost come at the third evaluation
    same = score("length moves", bad, good, HONEST)
    assert (same.auc, same.caught, same.false) == (0.5, 0, 0)
    loud = FLAT | {"kl": [0, 0.1, 0.7, 0.7]}
    found = score("KL to the base", bad, [(0, loud), *good[1:]], HONEST)  # an even seed is loud
    assert found.caught == 4 and found.false == 1  # odd seeds are tried against 0.7: their 1.0 is above it, later
    assert sorted(found.leads) == [-1, -1, 0, 0]
    assert set(ALARMS) >= {"KL to the base", "honest grade falls"}
