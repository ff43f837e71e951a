"""The search for settings: what is drawn, who goes on, and that every algorithm gets as many runs."""

import math

from grpo_teach.studies import run as experiments
from grpo_teach.studies.run import Variant
from grpo_teach.studies.search import next_round, planned, trials
from grpo_teach.tasks import ChainSum
from grpo_teach.tasks.few_problems import Practice

SPACE = {
    "algorithm": "ppo",
    "learning_rate": {"from": 1e-4, "to": 1e-2},
    "epochs": [1, 2, 4],
    "batch": [{"prompts": 8, "group_size": 1}, {"prompts": 2, "group_size": 4}],
}


def test_trials_are_even_draws_from_the_space_and_the_name_decides_which():
    drawn = trials(SPACE, 60, "a study")
    assert trials(SPACE, 60, "a study") == drawn != trials(SPACE, 60, "another")
    for trial in drawn:
        assert trial.keys() == {"algorithm", "learning_rate", "epochs", "prompts", "group_size"}
        assert trial["prompts"] * trial["group_size"] == 8 and trial["algorithm"] == "ppo"
        assert trial["learning_rate"] == float(f"{trial['learning_rate']:.2g}")
    assert [sum(trial["epochs"] == epochs for trial in drawn) for epochs in (1, 2, 4)] == [20, 20, 20]
    logs = sorted(math.log10(trial["learning_rate"]) for trial in drawn)
    for i, log in enumerate(logs):  # one in each of 60 equal parts, but for the rounding
        assert -4 + 2 * i / 60 - 0.03 <= log <= -4 + 2 * (i + 1) / 60 + 0.03
    pairs = {(trial["epochs"], trial["prompts"], trial["learning_rate"] > 1e-3) for trial in drawn}
    assert len(pairs) == 12, "settings are drawn apart from each other"


def test_what_two_spaces_share_is_drawn_alike():
    other = {"algorithm": "grpo", "scale": ["std", "none"]} | {
        k: SPACE[k] for k in ("learning_rate", "epochs", "batch")
    }
    for one, two in zip(trials(SPACE, 9, "a"), trials(other, 9, "a"), strict=True):
        assert all(one[key] == two[key] for key in ("learning_rate", "epochs", "prompts", "group_size"))
        assert two["algorithm"] == "grpo" and two["scale"] in ("std", "none")


def test_given_trials_come_first_and_count():
    drawn = trials(SPACE | {"given": [{}, {"epochs": 7}]}, 6, "a")
    assert drawn[:2] == [{"algorithm": "ppo"}, {"algorithm": "ppo", "epochs": 7}] and len(drawn) == 6
    assert all("given" not in trial and len(trial) == 5 for trial in drawn[2:])
    assert sorted(trial["epochs"] for trial in drawn[2:]) in ([1, 1, 2, 4], [1, 2, 2, 4], [1, 2, 4, 4])


STUDY = {
    "seeds": [7, 8, 9],
    "trials": [4, 2, 1],
    "variants": {f"{name} {i:02}": Variant() for name in ("good", "bad") for i in range(4)},
}
HEIGHT = {"good 00": 0.9, "good 01": 0.8, "good 02": 0.85, "good 03": 0.1} | {f"bad {i:02}": 0.1 * i for i in range(4)}


def test_the_best_of_each_algorithm_go_on_and_all_get_as_many_runs():
    runs, rounds = {label: [] for label in STUDY["variants"]}, []
    surprise = {("good 02", 8): 1.0}  # the second seed turns two of them round
    while todo := next_round(STUDY, runs):
        rounds.append(todo)
        for label, seed in todo:
            runs[label].append({"seed": seed, "accuracy": surprise.get((label, seed), HEIGHT[label])})
    assert rounds[0] == [(label, 7) for label in STUDY["variants"]]
    assert sorted(rounds[1]) == [("bad 02", 8), ("bad 03", 8), ("good 00", 8), ("good 02", 8)]
    assert sorted(rounds[2]) == [("bad 03", 9), ("good 02", 9)]
    assert len(rounds) == 3 and sum(map(len, rounds)) == planned(STUDY) == 14


def test_a_search_goes_on_in_the_round_where_it_stopped():
    runs = {label: [{"seed": 7, "accuracy": HEIGHT[label]}] for label in STUDY["variants"]}
    runs["good 00"].append({"seed": 8, "accuracy": 0.9})
    assert sorted(next_round(STUDY, runs)) == [("bad 02", 8), ("bad 03", 8), ("good 02", 8)]


def test_a_study_without_a_search_is_one_round_of_all_its_runs():
    study = {"seeds": [0, 1], "variants": {"a": Variant(), "b": Variant()}}
    assert planned(study) == 4
    runs = {"a": [{"seed": 1, "accuracy": 0.5}], "b": []}
    assert next_round(study, runs) == [("a", 0), ("b", 0), ("b", 1)]


def test_practice_asks_training_problems_always_the_same():
    task = ChainSum(3)
    practice = Practice(task)
    asked, held_out = practice.test_set(200), set(task.test_set(2000))
    assert asked == practice.test_set(200) and not set(asked) & held_out
    assert practice.right(asked[0].answer, asked[0]) == 1.0
    variant = Variant(practice=True, train_problems=4)
    _, _, few = variant.start()
    assert not set(few.test_set(200)) & set(ChainSum().test_set(4000))


def test_variants_of_one_search_can_be_those_of_another(tmp_path, monkeypatch):
    text = """
        [a]
        question = "?"
        seeds = [5, 6]
        trials = [3, 1]
        steps = 2
        [a.variants.grpo]
        learning_rate = { from = 1e-4, to = 1e-2 }
        [b]
        question = "??"
        seeds = [5, 6]
        trials = [3, 1]
        steps = 3
        task = "addition"
        variants = "a"
    """
    (tmp_path / "studies.toml").write_text(text)
    monkeypatch.setattr(experiments, "__file__", str(tmp_path / "run.py"))
    found = experiments.studies()
    assert list(found["a"]["variants"]) == list(found["b"]["variants"]) == ["grpo 00", "grpo 01", "grpo 02"]
    assert {variant.task for variant in found["b"]["variants"].values()} == {"addition"}
    rates = [[v.settings["learning_rate"] for v in found[name]["variants"].values()] for name in "ab"]
    assert rates[0] != rates[1] and all(1e-4 <= rate <= 1e-2 for rate in rates[0] + rates[1])
