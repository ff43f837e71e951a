"""What a record of runs with bugs keeps, and how a doctor is scored on it."""

import json
import math

import pytest

from grpo_teach.bugs import BUGS
from grpo_teach.bugs.scored import all_runs, baseline, doctor, flagged, packed, share, unpacked
from grpo_teach.clinic.doctor import Run, examine

ROWS = [
    {"step": i, "reward": 0.2 + 0.01234567 * i, "old_kl": 0.0123456 if i else 1e-14, "mixed_groups": 1.0}
    for i in range(40)
]
ROWS[0] |= {"accuracy": 0.21, "graded": 256}
CONFIG = {"algorithm": "GRPO", "epochs": 1, "minibatches": 1, "dtype": "torch.float32"}
SOUND = [row | {"old_kl": 0.0} for row in ROWS]


def record(**runs) -> dict:
    results = {label: [{"seed": i, "curves": packed(rows), "baseline": said} for i, (rows, said) in enumerate(several)]
               for label, several in runs.items()}  # fmt: skip
    return json.loads(json.dumps({"runs": results, "configs": dict.fromkeys(runs, CONFIG)}))


def test_packed_curves_keep_three_digits_and_what_is_missing():
    curves = packed(ROWS)
    assert curves["reward"][:3] == [0.2, 0.212, 0.225] and curves["old_kl"][1] == 0.0123
    assert curves["accuracy"] == [0.21] + [None] * 39 and curves["step"] == [*range(40)]
    run = unpacked(curves, CONFIG)
    assert run.rows[0].keys() == ROWS[0].keys() and run.rows[1].keys() == ROWS[1].keys()
    assert [found.sign for found in examine(run)] == [found.sign for found in examine(Run(ROWS, CONFIG))]


def test_the_curves_of_a_record_are_judged_run_by_run():
    held = record(two_temperatures=[(ROWS, []), (SOUND, [("a", "medium")])], healthy=[(SOUND, [("a", "high")])])
    assert [label for label, _, _ in all_runs(held)] == ["two_temperatures", "two_temperatures", "healthy"]
    assert flagged(held) == flagged(held, doctor) == {"two_temperatures": [["scoring_differs"], []], "healthy": [[]]}
    assert flagged(held, baseline) == {"two_temperatures": [[], []], "healthy": [["a"]]}


def test_shares_count_runs_with_a_bug_and_those_without_apart():
    found = {"flipped_sign": [["a"], []], "off_by_one": [["a", "b"], ["c"]], "healthy": [[], [], []]}
    assert share(found, bugs=True)[:2] == (3, 4) and share(found, bugs=False)[:2] == (0, 3)
    low, high = share(found, bugs=False)[2:]
    z2 = 1.959964**2
    assert low == 0 and high == pytest.approx(z2 / (3 + z2))  # Wilson's upper end at a share of 0
    assert math.isclose(sum(share(found, bugs=True)[2:]) / 2, (0.75 + z2 / 8) / (1 + z2 / 4))


def test_the_labels_of_bugs_are_their_names():
    assert "flipped_sign" in BUGS and "healthy" not in BUGS
