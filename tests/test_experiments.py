"""Studies: what stands in the file can run, a run repeats, a killed record goes on, statistics are right."""

import dataclasses
import functools
import json
import math
import sys

import numpy
import pytest
import torch

from grpo_teach import ALGORITHMS, TASKS, InputError, evaluate, records
from grpo_teach.algorithms.later import LATER
from grpo_teach.biases.trainers import trainer_of
from grpo_teach.judges.verifiers import OneOfEach, Unreliable
from grpo_teach.large.real import Real
from grpo_teach.policy import BASES
from grpo_teach.r1 import distil, stages
from grpo_teach.r1.distil import METHODS, Distillation
from grpo_teach.r1.search import METHODS as WAYS
from grpo_teach.r1.search import Search
from grpo_teach.r1.stages import STAGES, Pipeline
from grpo_teach.records import load_record
from grpo_teach.studies import run as experiments
from grpo_teach.studies.pretrain import pretrain
from grpo_teach.studies.results import area, best_trials, ends, on_grid
from grpo_teach.studies.run import Variant
from grpo_teach.studies.search import next_round, planned
from grpo_teach.studies.twists import Different
from grpo_teach.tasks.equation import Equation
from grpo_teach.tasks.few_problems import FewProblems
from grpo_teach.tasks.task import Problem
from grpo_teach.train import Trainer

STUDIES = experiments.studies()
RECORDED = {name: records.RECORDED / f"{name}.json" for name in STUDIES}
SOURCES = {"stories", "reasoning_gym", "gsm8k"}  # of word problems, that studies may name
SMALL = {"prompts": 2, "group_size": 4, "max_new_tokens": 6}
TINY = Variant(settings=SMALL, steps=3, evaluate_every=2)


@pytest.fixture(autouse=True)
def few_questions(monkeypatch):
    """Evaluations of 8 problems instead of 256; not in the processes that ``record`` starts."""

    def quick(policy, tokenizer, task, problems=8, **asked):
        return evaluate(policy, tokenizer, task, 8, **asked)

    for module in (experiments, stages, distil, sys.modules["grpo_teach.train"]):  # the name is a function's, too
        monkeypatch.setattr(module, "evaluate", quick)


# What stands in the file ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
def test_every_variant_can_be_built(name):
    study = STUDIES[name]
    assert study["question"] and len(set(study["seeds"])) == len(study["seeds"]) >= 1
    for variant in study["variants"].values():
        if isinstance(variant, Variant):
            (ALGORITHMS | LATER)[variant.algorithm].Settings(**variant.settings)
            assert issubclass(trainer_of(variant), Trainer)
            for options in (variant.options, *variant.also_asked.values()):
                TASKS[variant.task](**options)
        elif isinstance(variant, Pipeline):
            assert {*variant.stages.split()} <= STAGES.keys()
        elif isinstance(variant, Search):
            assert {*variant.methods.split()} <= WAYS.keys()
            continue
        elif isinstance(variant, Real):
            assert variant.method in ("lora", "full") and {variant.data, *variant.also_asked} <= SOURCES
            if variant.algorithm != "none":
                ALGORITHMS[variant.algorithm].Settings(max_new_tokens=variant.limit, **variant.settings)
                assert variant.tokens or variant.steps
            continue
        else:
            assert isinstance(variant, Distillation) and variant.method in METHODS
        assert variant.tokens or variant.steps
        for base in {getattr(variant, place, None) for place in ("base", "teacher")} - {None} or {variant.task}:
            assert (BASES / base / "config.json").exists()


# Studies that choose settings, on training problems; those among them for a comparison of all algorithms.
CHOOSING = [
    name for name, study in STUDIES.items() if all(getattr(v, "practice", False) for v in study["variants"].values())
]
SEARCHES = [name for name in CHOOSING if name.replace("search", "main") in STUDIES and "trials" in STUDIES[name]]


@pytest.mark.parametrize("name", SEARCHES)
def test_every_algorithm_has_as_many_trials_on_seeds_and_problems_used_nowhere_else(name):
    families = [label.rpartition(" ")[0] for label in STUDIES[name]["variants"]]
    assert len(set(families)) == 6 and {families.count(family) for family in families} == {STUDIES[name]["trials"][0]}
    compared = [study for other, study in STUDIES.items() if other not in CHOOSING]
    used = {seed for study in compared for seed in study["seeds"]}
    assert not used & set(STUDIES[name]["seeds"]) and len(STUDIES[name]["seeds"]) >= 4
    for variant in STUDIES[name]["variants"].values():
        assert variant.practice and variant.tokens == STUDIES[name.replace("search", "main")]["variants"]["sft"].tokens
        assert variant.settings.get("prompts", 16) * variant.settings.get("group_size", 16) == 256


@pytest.mark.parametrize("name", [name for name in CHOOSING if name not in SEARCHES])
def test_seeds_that_chose_settings_compare_nothing(name):
    families = [label.rpartition(" ")[0] for label in STUDIES[name]["variants"]]
    if rounds := STUDIES[name].get("trials"):
        assert {families.count(family) for family in families} == {rounds[0]}
    used = {seed for other, study in STUDIES.items() if other not in CHOOSING for seed in study["seeds"]}
    assert not used & set(STUDIES[name]["seeds"])
    # A cold start alone draws nothing by the seed.
    trained = [v for v in STUDIES[name]["variants"].values() if getattr(v, "algorithm", "") != "none"]
    assert len(STUDIES[name]["seeds"]) >= 2 or not trained


def test_distillation_is_compared_with_each_methods_best_trial():
    pairs = {"RL": "rl", "texts": "texts", "logits": "logits", "on-policy": "on_policy", "width 48, RL": "rl_48"}
    best, tried = best_trials(ends("search_distil")), STUDIES["search_distil"]["variants"]
    for label, family in pairs.items():
        compared = STUDIES["distil"]["variants"][label]
        chosen = dataclasses.replace(tried[best[family]], practice=False)
        assert dataclasses.replace(compared, paid=chosen.paid) == chosen
        assert compared.paid == chosen.paid or compared.method != "rl"  # the others are paid by nobody


@pytest.mark.parametrize("name", [name for name in STUDIES if name.startswith("main")])
def test_the_main_comparison_uses_each_algorithms_best_trial(name):
    search = name.replace("main", "search")
    trials = load_record(search)["runs"]
    most = max(map(len, trials.values()))  # seeds: only the last round's trials have them all
    for method, variant in STUDIES[name]["variants"].items():
        means = {
            label: numpy.mean([result["accuracy"] for result in results])
            for label, results in trials.items()
            if label.rpartition(" ")[0] == method and len(results) == most
        }
        best = max(means, key=means.get)
        assert variant.settings == STUDIES[search]["variants"][best].settings, f"{method}: the best trial is {best}"
        assert variant.algorithm == STUDIES[search]["variants"][best].algorithm
        assert best_trials(ends(search))[method] == best
        rate = ALGORITHMS[variant.algorithm].Settings(**variant.settings).learning_rate
        assert 6e-5 < rate < 1.7e-3, f"{method}: the best trial is at the edge"


def test_a_list_makes_one_variant_for_each_of_its_values(tmp_path, monkeypatch):
    text = '[s]\nquestion = "?"\nseeds = 3\nsteps = 7\n[s.variants]\na = { beta = [0.0, 1.0], epochs = [1, 2] }\nb = {}'
    (tmp_path / "studies.toml").write_text(text)
    monkeypatch.setattr(experiments, "__file__", str(tmp_path / "experiments.py"))
    study = experiments.load_study("s")
    assert study["seeds"] == [0, 1, 2]
    assert {label: variant.settings for label, variant in study["variants"].items()} == {
        "a, beta 0.0, epochs 1": {"beta": 0.0, "epochs": 1},
        "a, beta 0.0, epochs 2": {"beta": 0.0, "epochs": 2},
        "a, beta 1.0, epochs 1": {"beta": 1.0, "epochs": 1},
        "a, beta 1.0, epochs 2": {"beta": 1.0, "epochs": 2},
        "b": {},
    }
    assert all(variant.steps == 7 for variant in study["variants"].values())


def test_a_study_of_another_kind_is_made_of_that_kinds_runs(tmp_path, monkeypatch):
    common = 'question = "?"\nseeds = 1\nbase = "miniature_32"\ntokens = 1'
    text = f'[a]\nkind = "r1"\n{common}\n[a.variants]\nx = {{ paid = ["accuracy", "format"] }}\ny = {{ beta = 0.0 }}\n'
    text += f'[b]\nkind = "distil"\n{common}\nteacher = "miniature"\n[b.variants]\nz = {{ method = "logits" }}'
    (tmp_path / "studies.toml").write_text(text)
    monkeypatch.setattr(experiments, "__file__", str(tmp_path / "experiments.py"))
    assert experiments.load_study("a")["variants"] == {
        "x, paid accuracy": Pipeline(base="miniature_32", tokens=1, paid="accuracy"),
        "x, paid format": Pipeline(base="miniature_32", tokens=1, paid="format"),
        "y": Pipeline(base="miniature_32", tokens=1, beta=0.0),
    }
    taught = Distillation(base="miniature_32", tokens=1, teacher="miniature", method="logits")
    assert experiments.load_study("b")["variants"] == {"z": taught}


@pytest.mark.parametrize(
    "variant", [TINY, Pipeline(stages="zero", tokens=1), Distillation(teacher="miniature", tokens=1)], ids=type
)
def test_a_run_of_any_kind_repeats_to_the_last_bit_and_can_be_written_down(variant):
    first, again = (experiments._timeless(experiments._job(variant, 1)) for _ in range(2))
    assert json.dumps(first, allow_nan=False) == json.dumps(again)
    assert first["seed"] == 1 and 0 <= first["accuracy"] <= 1
    assert type(variant)(**json.loads(json.dumps(dataclasses.asdict(variant)))) == variant


def test_an_unknown_study_is_refused_with_the_names_of_the_others():
    with pytest.raises(InputError, match="beta"):
        experiments.load_study("nonsense")


# Runs -------------------------------------------------------------------------------------------------------------


def test_a_run_repeats_to_the_last_bit_and_another_seed_does_not():
    first, again, other = (experiments.run(TINY, seed) for seed in (0, 0, 1))
    assert experiments._timeless(first) == experiments._timeless(again)
    assert first["curve"]["reward"] != other["curve"]["reward"]
    json.dumps(first, allow_nan=False)


def test_the_curve_begins_with_the_base_and_ends_with_the_last_policy():
    result = experiments.run(TINY, 0)
    curve = result["curve"]
    assert result["steps"] == 3
    assert len({len(values) for values in curve.values()}) == 1
    assert len(curve["tokens"]) == 3  # before steps 0 and 2, and at the end
    assert curve["tokens"][0] == curve["seconds"][0] == 0
    assert curve["tokens"] == sorted(curve["tokens"]) and curve["tokens"][-1] == result["tokens"]
    assert curve["accuracy"][-1] == result["accuracy"]
    assert curve["kl"][0] == pytest.approx(0, abs=1e-6)  # the policy still is the base
    assert 0 < result["entropy"] < math.log(17)


def test_a_run_that_diverges_answers_nothing_right():
    variant = Variant(settings={"prompts": 8, "group_size": 8, "learning_rate": 1e30}, steps=4, evaluate_every=1)
    result = experiments.run(variant, 0)
    assert result["diverged"] and result["accuracy"] == 0
    json.dumps(result, allow_nan=False)


def test_wrong_rewards_reach_the_learner_and_not_the_evaluation(monkeypatch):
    task = TASKS["chain_sum"](5)
    problems = task.sample(1, torch.Generator().manual_seed(0))
    texts = [problems[0].answer, "x"]
    always = Unreliable(task, 1.0, 1.0)
    assert always(texts, problems).tolist() == [[0.0, 1.0]]
    assert always.graded == {"reward": 0.5, "mixed_groups": 1.0, "paid": 0.5, "paid_mixed": 1.0}
    for positives, negatives in ((0.25, 0.0), (0.0, 0.25), (0.1, 0.4)):
        erring = Unreliable(task, positives, negatives)
        paid = erring([text for text in texts for _ in range(10_000)], problems)[0]  # 10,000 right, 10,000 wrong
        right, wrong = float(paid[:10_000].mean()), float(paid[10_000:].mean())
        assert abs(1 - right - negatives) < 0.02 and abs(wrong - positives) < 0.02  # 0.25 ± 0.013 with 99.7%
        assert erring.graded["reward"] == 0.5 and erring.graded["paid"] == pytest.approx((right + wrong) / 2)
        assert negatives or right == 1
        assert positives or wrong == 0
    seen, inner = [], ALGORITHMS["grpo"]

    def spy(models, rollouts, rewards, config):
        seen.append(rewards)
        return inner.update(models, rollouts, rewards, config)

    monkeypatch.setitem(ALGORITHMS, "grpo", inner._replace(update=spy))
    honest = experiments.run(TINY, 0)["curve"]
    wrong = experiments.run(dataclasses.replace(TINY, wrong_rewards=1.0), 0)["curve"]
    assert wrong["paid"][0] == pytest.approx(1 - honest["reward"][0], abs=1e-4) and "paid" not in honest
    assert torch.equal(seen[TINY.steps], 1 - seen[0])  # the first batch of each run: sampled by the same policy
    assert wrong["reward"][0] == honest["reward"][0] and wrong["mixed_groups"][0] == honest["mixed_groups"][0]


def test_of_each_group_only_the_first_right_answer_is_paid():
    task = TASKS["chain_sum"](5)
    problems = task.sample(2, torch.Generator().manual_seed(0))
    a, b = (problem.answer for problem in problems)
    one = OneOfEach(task)
    assert one(["x", a, a, a, "x", "x", "x", b], problems).tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]
    assert one.graded["reward"] == 0.5
    assert one(["x"] * 4, problems[:1]).tolist() == [[0, 0, 0, 0]]
    run = experiments.run(dataclasses.replace(TINY, algorithm="sft", best_of_n=True), 0)
    assert (
        run["curve"]["reward"][0]
        == experiments.run(dataclasses.replace(TINY, algorithm="sft"), 0)["curve"]["reward"][0]
    )


def test_a_run_ends_one_update_after_it_is_good_enough(monkeypatch):
    heights = iter([0.1, 0.5, 0.2, 0.9])

    def found(policy, tokenizer, task, problems=8, **asked):
        result = evaluate(policy, tokenizer, task, 4, **asked)
        return result if "samples" in asked else dataclasses.replace(result, accuracy=next(heights))

    monkeypatch.setattr(experiments, "evaluate", found)
    monkeypatch.setattr(sys.modules["grpo_teach.train"], "evaluate", found)
    result = experiments.run(dataclasses.replace(TINY, steps=20, evaluate_every=2, until=0.5), 0)
    assert result["steps"] == 3  # looked at before steps 0 and 2; the step that was begun is finished
    assert result["curve"]["accuracy"][:2] == [0.1, 0.5] and not result["diverged"]


def test_a_policy_can_be_taught_by_demonstrations_and_reads_as_many_tokens():
    variant = Variant(algorithm="sft", demonstrations=True, tokens=8000, evaluate_every=4)
    variant = dataclasses.replace(variant, settings={"prompts": 8, "group_size": 4, "learning_rate": 2e-3})
    result = experiments.run(variant, 0)
    each = 2 + 4 * 6 + 2  # tags, steps, the answer and the end
    assert result["curve"]["length"][0] == each
    assert result["tokens"] == result["steps"] * 32 * each >= 8000
    assert result["thinks"] > 0.9, "it has read nothing but worked answers"
    assert experiments._timeless(result) == experiments._timeless(experiments.run(variant, 0))
    assert result["curve"]["accuracy"][-1] == result["accuracy"]


def test_different_right_answers_are_counted_once_a_problem():
    problems = [Problem("2x+0=4;", "2"), Problem("3x+0=9;", "3")]  # solved by 2 and by 7, and by 3 alone
    texts = ["7", "2", "<think></think>2", "3", "3", "<think>3</think>", "1", "<think></think>3"]
    counted = Different(Equation())
    assert torch.equal(counted.reward(texts, problems), Equation().reward(texts, problems))
    assert counted.found / len(problems) == (2 + 1) / 2
    assert counted.max_new_tokens == Equation().max_new_tokens  # all else is the task's own


def test_few_problems_are_few_and_the_test_set_stays():
    task = TASKS["chain_sum"](5)
    few = FewProblems(task, 3)
    drawn = few.sample(200, torch.Generator().manual_seed(0))
    assert len(set(drawn)) == 3 and set(drawn) == set(FewProblems(task, 3).pool)
    assert few.test_set(20) == task.test_set(20)
    assert set(drawn).isdisjoint(task.sample(2000, torch.Generator().manual_seed(1), "test"))
    assert few.reward([drawn[0].answer, "x"], drawn[:1]).tolist() == [[1.0, 0.0]]


def test_reading_on_changes_how_often_the_base_thinks(monkeypatch):
    few = functools.partial(pretrain, batch=32)  # enough for so large a change, and quick
    monkeypatch.setattr(sys.modules["grpo_teach.studies.pretrain"], "pretrain", few)
    experiments.base_of.cache_clear()
    seldom, often = (dataclasses.replace(TINY, thinking=share).start() for share in (0.0, 1.0))
    shares = [evaluate(policy, tokenizer, task, 64).thinks for policy, tokenizer, task in (seldom, often)]
    experiments.base_of.cache_clear()
    assert shares[0] < 0.1 and shares[1] > 0.9


# Records ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of two variants and two seeds, and where its record goes."""
    variants = {"a": TINY, "b": dataclasses.replace(TINY, algorithm="sft")}
    found = {"question": "?", "seeds": [0, 1], "variants": variants}
    monkeypatch.setattr(experiments, "load_study", lambda name: found)
    monkeypatch.setattr(records, "RECORDED", tmp_path)
    return tmp_path / "tiny.json"


def test_a_record_goes_on_where_it_was_killed_and_a_run_can_be_repeated(study):
    whole = experiments.record("tiny", study, progress=False)
    assert json.loads(study.read_text()) == whole
    assert whole["manifest"]["seed"] == [0, 1] and whole["manifest"]["threads"] == 1
    assert [[r["seed"] for r in whole["runs"][label]] for label in "ab"] == [[0, 1], [0, 1]]

    kept = json.loads(study.read_text())
    kept["runs"]["a"][0]["thinks"] = "kept"  # a run that is there is not run again
    del kept["runs"]["a"][1], kept["runs"]["b"][0]
    study.write_text(json.dumps(kept))
    resumed = experiments.record("tiny", study, progress=False)
    assert resumed["runs"]["a"][0]["thinks"] == "kept"
    resumed["runs"]["a"][0]["thinks"] = whole["runs"]["a"][0]["thinks"]
    for label in "ab":
        assert list(map(experiments._timeless, resumed["runs"][label])) == list(
            map(experiments._timeless, whole["runs"][label])
        )

    study.write_text(json.dumps(whole))
    same = experiments.check("tiny", "b", 1)
    assert same["same"] and same["same_machine"] and same["seeds"] == 2
    assert same["recorded"] == sorted(run["accuracy"] for run in whole["runs"]["b"])
    whole["runs"]["b"][1]["curve"]["reward"][0] += 0.25
    study.write_text(json.dumps(whole))
    assert not experiments.check("tiny", "b", 1)["same"]
    with pytest.raises(InputError, match="no run"):
        experiments.check("tiny", "b", 7)


def test_a_check_says_what_one_run_can_say(monkeypatch, capsys):
    from grpo_teach.__main__ import main

    def checked(**found):
        found = {"same": False, "same_machine": False, "accuracy": 0.5, "recorded": [0.6, 0.8], "seeds": 10} | found
        monkeypatch.setattr(experiments, "check", lambda *asked: found)
        code = main(["record", "beta", "--check"])
        return code, capsys.readouterr()

    code, said = checked(same=True, same_machine=True)
    assert not code and "number for number" in said.out
    code, said = checked()
    assert not code and "outside the 60.0% – 80.0% of 10 seeds" in said.out and "2 cases of 11" in said.out
    assert "inside" in checked(accuracy=0.7)[1].out
    code, said = checked(same_machine=True)
    assert code == 2 and "differs" in said.err


def test_a_record_made_otherwise_is_not_gone_on_with(study):
    about = {"seed": [0, 1], "config": {"question": "another"}}
    study.write_text(json.dumps({"manifest": about, "runs": {}}))
    with pytest.raises(InputError, match="config"):
        experiments.record("tiny", study, progress=False)
    assert json.loads(study.read_text())["manifest"] == about


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_recorded_whole(name):
    held, study = json.loads(RECORDED[name].read_text()), STUDIES[name]
    recorded = records.in_todays_words(held["manifest"]["config"]["variants"])
    assert {label: type(study["variants"][label])(**config) for label, config in recorded.items()} == study["variants"]
    if any(getattr(variant, "may_differ", ()) for variant in study["variants"].values()):
        # Made over several sittings: what is there is whole, and every run says on what device.
        runs = [run for label in study["variants"] for run in held["runs"][label]]
        assert runs and all(run["device"] and run["seed"] in study["seeds"] for run in runs)
        return
    assert set(held["runs"]) == set(study["variants"]) and not next_round(study, held["runs"])
    assert sum(map(len, held["runs"].values())) == planned(study)
    for results in held["runs"].values():
        assert [result["seed"] for result in results] == study["seeds"][: len(results)]
        assert all(0 <= result["accuracy"] <= result.get("pass_at_8", 1) <= 1 for result in results)


@pytest.mark.slow
def test_one_seed_of_the_main_comparison_repeats():
    result = experiments.check("main_chain_sum", seed=3)
    assert result["same"] or not result["same_machine"]  # elsewhere it is another run


def test_on_a_grid_curves_are_read_off_at_the_same_places_and_a_run_that_has_ended_keeps_its_last_value():
    short = {"curve": {"tokens": [0, 100], "accuracy": [0.0, 0.5]}}
    long = {"curve": {"tokens": [0, 100, 200], "accuracy": [0.2, 0.4, 0.8]}}
    x, values = on_grid([short, long], points=5)
    assert x.tolist() == [0, 50, 100, 150, 200]
    assert values[0].tolist() == pytest.approx([0, 0.25, 0.5, 0.5, 0.5])
    assert values[1].tolist() == pytest.approx([0.2, 0.3, 0.4, 0.6, 0.8])


def test_the_area_is_the_mean_height():
    ramp = {"tokens": [0, 100], "accuracy": [0.0, 1.0], "seconds": [0, 1]}
    assert area(ramp, 100) == pytest.approx(0.5)
    assert area(ramp, 200) == pytest.approx(0.75)  # the last accuracy is held
    assert area(ramp, 1, against="seconds") == pytest.approx(0.5)
    assert area({"tokens": [0, 50, 100], "accuracy": [0.4] * 3}, 100) == pytest.approx(0.4)
