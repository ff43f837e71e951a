"""R1's stages in order: what is refused, what is kept, and runs that repeat and can be cut between two stages."""

import copy
import functools
import json
from types import SimpleNamespace

import pytest
import torch

from grpo_teach import InputError, evaluate
from grpo_teach.evaluate import answers
from grpo_teach.policy import load_base, load_policy
from grpo_teach.r1 import pays, stages
from grpo_teach.r1.stages import Pipeline, Run
from grpo_teach.tasks.miniature import Miniature


@pytest.mark.parametrize(
    "given, said",
    [
        ({"stages": "zero nonsense"}, "no stage 'nonsense'; there are: zero, cold, reasoning, rejection, all"),
        ({"stages": "cold, reasoning"}, "no stage 'cold,'"),
        ({"stages": ""}, "no stage ''"),
        ({"stages": " "}, "no stage ''"),
        ({"paid": "accuracy luck"}, "no rule 'luck'"),
        ({"paid": ""}, "no rule ''"),
        ({"beta": -0.1}, "beta"),
        ({"beta": float("nan")}, "beta"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"judged": "nobody"}, "judged"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_trained(given, said):
    with pytest.raises(InputError, match=said):
        Pipeline(**given)


def test_bases_and_policies_that_cannot_read_the_texts_are_refused():
    with pytest.raises(InputError, match="nowhere"):
        Pipeline(base="nowhere").run(0)
    with pytest.raises(InputError, match="the base 'chain_sum' cannot read"):
        Pipeline(base="chain_sum").run(0)
    with pytest.raises(InputError, match="the policy cannot read"):
        Pipeline().run(0, policy=load_base("chain_sum")[0])


def test_what_is_shown_on_the_way_is_held_out_and_leaves_the_random_state():
    assert {*stages.SHOWN} <= {problem.prompt for problem in Miniature().test_set(64)}
    policy, tokenizer = load_base("miniature_32")
    run, state = Run(policy, tokenizer, Pipeline(), 0, policy), torch.get_rng_state()
    run.show("zero", 2)
    run.show("zero", 5)
    assert torch.equal(state, torch.get_rng_state())
    assert [(each["stage"], each["step"]) for each in run.transcripts] == [("zero", 2), ("zero", 5)]
    assert run.transcripts[0]["texts"] == run.transcripts[1]["texts"] and len(run.transcripts[0]["texts"]) == 2


@pytest.fixture
def quick(monkeypatch):
    """Few questions, few pairs for the judge and few answers to choose from."""

    def few(policy, tokenizer, task, problems, samples, **asked):
        return evaluate(policy, tokenizer, task, 8, samples=8, **asked)

    def first(policy, tokenizer, problems, *how):
        return answers(policy, tokenizer, problems[:60], *how)

    monkeypatch.setattr(stages, "evaluate", few)
    monkeypatch.setattr(stages, "answers", first)
    monkeypatch.setattr(pays, "PAIRS", 64)


TINY = functools.partial(Pipeline, base="miniature_32", tokens=1, examples=32)
FOUR = "cold reasoning rejection all"


def timeless(found):
    return json.dumps(found | {"seconds": None}, allow_nan=False)


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_all_stages_repeat_are_kept_and_can_be_cut_in_two(quick, tmp_path):
    whole = TINY(stages=FOUR).run(0, out=tmp_path)
    torch.manual_seed(99)
    assert timeless(TINY(stages=FOUR).run(0)) == timeless(whole)

    rows = whole["rows"]
    assert [row["stage"] for row in rows] == ["base", *FOUR.split()]
    assert rows[-1]["accuracy"] == rows[-1]["pass_at_1"] == whole["accuracy"] and rows[-1]["tokens"] == whole["tokens"]
    spent = [row["tokens"] for row in rows]
    assert spent[0] == spent[1] == 0 and spent == sorted(spent), "reading costs no generated token"
    assert {len(values) for values in whole["curve"].values()} == {2}
    assert whole["curve"]["tokens"] == [spent[2], spent[4]]
    assert [(t["stage"], t["step"]) for t in whole["transcripts"]] == [("reasoning", 0), ("all", 0), ("end", 0)]

    kept = json.loads((tmp_path / "results.json").read_text())
    assert kept.pop("manifest")["config"]["stages"] == FOUR and kept == json.loads(json.dumps(whole))
    policies = {stage: load_policy(tmp_path / stage)[0] for stage in FOUR.split()}
    for before, stage in (("cold", "reasoning"), ("rejection", "all")):
        start = copy.deepcopy(policies[before])
        part = TINY(stages=stage).run(0, policy=start, out=tmp_path / "part")
        assert same_weights(start, policies[before]), "a policy that is given is left as it was"
        assert same_weights(load_policy(tmp_path / "part" / stage)[0], policies[stage])
        first, last = ({key: row[key] for key in row.keys() - {"stage", "tokens"}} for row in part["rows"])
        assert part["rows"][0]["stage"] == "start"
        assert [first, last] == [{key: row[key] for key in first} for row in rows if row["stage"] in (before, stage)]


def test_rejection_by_itself_repeats_too(quick):
    first, again = (torch.manual_seed(state) and TINY(stages="rejection").run(0) for state in (1, 2))
    assert timeless(first) == timeless(again) and first["tokens"] > 0
    assert timeless(first) != timeless(TINY(stages="rejection").run(1))


@pytest.mark.parametrize(
    "stage, language, paid",
    [("zero", True, "accuracy format"), ("reasoning", True, "accuracy format language")]
    + [("reasoning", False, "accuracy format"), ("all", True, "accuracy format language")],
)
def test_one_language_is_paid_in_every_stage_but_r1_zero(quick, monkeypatch, stage, language, paid):
    seen = []

    def paying(run, stage, task, reward, progress, beta=0.0):
        reasoning = reward.reasoning if stage == "all" else reward
        seen.append((stage, task.skill, " ".join(reasoning.parts), beta))

    monkeypatch.setattr(stages, "reinforce", paying)
    monkeypatch.setattr(stages, "judge_of_manners", lambda *given: SimpleNamespace(reward=None))
    TINY(stages=stage, language=language, beta=0.3).run(0)
    assert seen == [(stage, "both" if stage == "all" else "reasoning", paid, 0.3 if stage == "all" else 0.0)]


@pytest.mark.parametrize("judged", ["base", "policy"])
def test_the_judge_is_shown_the_answers_of_whom_it_is_said(monkeypatch, judged):
    run, shown = Run("the base", "tokens", Pipeline(judged=judged), 0, "the policy"), []

    def judge(whose, *how):
        shown.append(whose)
        return SimpleNamespace(reward=None)

    monkeypatch.setattr(stages, "judge_of_manners", judge)
    monkeypatch.setattr(stages, "reinforce", lambda *given: None)
    stages.everything(run, False)
    assert shown == [f"the {judged}"]
