"""R1's stages: who is paid for what, and what is kept and read."""

import copy
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_teach import InputError, Problem
from grpo_teach.policy import load_base
from grpo_teach.r1 import pays, stages
from grpo_teach.r1.pays import BySkill, Watched, judge_of_manners, rules
from grpo_teach.r1.stages import Pipeline, Run, keep_right
from grpo_teach.rollout import sample
from grpo_teach.tasks.miniature import Miniature, in_form

FIVE, SORT, THREE = Problem("7x+4=9;", "5"), Problem("sort52713;", "12357"), Problem("2x+1=7;", "3")
CLEAN, MIXED, CHINESE = "<think>5:59=</think>5", "<think>3:15≠wait五:五九=</think>4", "<think>五:五九=</think>5"
SCORES = {  # accuracy, format, language of an answer to FIVE
    CLEAN: (1, 1, 1),
    MIXED: (0, 1, 0.5),
    CHINESE: (1, 1, 0),
    "<think>3:15≠wait五:五九=</think>5thanks": (0, 0, 0.5),
    "<think>5:5</think>5": (1, 0, 1),
    "<think></think>5": (1, 0, 0),
    "5": (1, 0, 0),
    "3:15": (0, 0, 0),
    "": (0, 0, 0),
}


# Pays -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["accuracy", "format", "language", "accuracy format", "language accuracy format"])
def test_rules_add_up_what_they_name(names):
    places = [("accuracy", "format", "language").index(name) for name in names.split()]
    wanted = [sum(scores[place] for place in places) for scores in SCORES.values()]
    reward = rules(names)
    assert reward(list(SCORES), [FIVE]).tolist() == [wanted]
    assert set(reward.seen) == {f"reward_{name}" for name in names.split()}
    assert rules(f"{names} {names}")(list(SCORES), [FIVE]).tolist() == [wanted], "named twice, it is paid once"


def test_each_answer_is_held_to_its_own_problem():
    assert rules("accuracy")(["3", "8", "5", "3"], [THREE, FIVE]).tolist() == [[1, 1], [1, 0]]


def test_a_coin_is_one_or_zero_whatever_the_text():
    paid = rules("coin")([CLEAN, ""] * 1000, [FIVE])[0]
    assert set(paid.tolist()) == {0.0, 1.0}
    assert abs(float(paid[::2].mean()) - 0.5) < 0.06 and abs(float(paid[1::2].mean()) - 0.5) < 0.06


@pytest.mark.parametrize("names", ["luck", "accuracy luck", "Accuracy", "accuracy,format", "", "  "])
def test_a_rule_that_there_is_not_is_refused_with_the_names_of_the_others(names):
    with pytest.raises(InputError, match="no rule.*there are: accuracy, format, language, coin"):
        rules(names)


def test_figures_are_watched_over_equations_alone_and_the_reward_passes_through():
    given, texts = torch.tensor([[7.0, -1.0]] * 3), ["12357thanks", "wait", MIXED, "5", CLEAN, "<think>3:07=wait"]
    problems, asked = [SORT, FIVE, THREE], []
    watched = Watched(lambda *batch: asked.append(batch) or given, Miniature("both"))
    assert watched(texts, problems) is given and asked == [(texts, problems)]
    seen = watched.seen
    assert seen["right"] == 1 / 4 and seen["thinks"] == 3 / 4  # 5 does not solve THREE
    # <think> 3 : 1 5 ≠ wait 5 : 5 9 = </think> 4 <eos>; 5 <eos>; <think> 5 : 5 9 = </think> 5 <eos>; ...
    assert seen["length"] == (15 + 2 + 9 + 8) / 4
    assert seen["checks"] == (2 + 0 + 1 + 1) / 4 and seen["waits"] == (1 + 0 + 0 + 1) / 4
    assert seen["arabic"] == (0.5 + 0 + 1 + 1) / 4 and seen["mixed"] == 1 / 4 and seen["readable"] == 1 / 4
    assert seen["polite"] == 0, "manners are the other skill's"


def test_a_batch_without_any_equation_shows_no_figures():
    watched = Watched(BySkill(rules("accuracy"), lambda texts, _: torch.tensor([[3.0, 4.0]])), Miniature("both"))
    assert watched(["5", "4"], [FIVE]).tolist() == [[1, 0]] and watched.seen["right"] == 0.5
    assert watched(["12357", ""], [SORT]).tolist() == [[3, 4]] and watched.seen == {}


def test_a_run_goes_on_after_a_batch_without_any_equation(monkeypatch):
    policy, tokenizer = load_base("miniature_32")
    run = Run(policy, tokenizer, Pipeline(tokens=1), 0, policy)
    stages.reinforce(run, "all", Miniature("general"), Miniature("general").reward, False)
    assert run.tokens > 0 and all(values == [] for values in run.curve.values())
    stages.reinforce(run, "all", Miniature(), Miniature().reward, False)
    assert all(len(values) == 1 for values in run.curve.values()) and run.curve["tokens"] == [run.tokens]


def test_each_skill_is_paid_by_its_own_in_its_own_place():
    def noting(sign):
        def reward(texts, problems):
            asked.append((sign, texts, problems))
            return sign * torch.tensor([float(text) for text in texts]).view(len(problems), -1)

        return reward

    asked, texts = [], [str(n) for n in range(1, 13)]
    paid = BySkill(noting(1), noting(-1))(texts, [SORT, FIVE, THREE, SORT])
    assert paid.tolist() == [[-1, -2, -3], [4, 5, 6], [7, 8, 9], [-10, -11, -12]]
    assert asked == [(1, texts[3:9], [FIVE, THREE]), (-1, [*texts[:3], *texts[9:]], [SORT, SORT])]
    asked.clear()
    assert BySkill(noting(1), noting(-1))(["1", "2"], [FIVE, FIVE]).tolist() == [[1], [2]]
    assert BySkill(noting(1), noting(-1))(["1", "2"], [SORT]).tolist() == [[-1, -2]]
    assert [sign for sign, *_ in asked] == [1, -1], "no reward is asked about nothing"


def test_the_judge_of_manners_puts_what_is_right_and_polite_above_what_is_neither(monkeypatch):
    monkeypatch.setattr(pays, "PAIRS", 300)
    policy, tokenizer = load_base("miniature")
    before = copy.deepcopy(policy.state_dict())
    judge = judge_of_manners(policy, tokenizer, torch.Generator().manual_seed(0))
    task = Miniature("general")
    problems = task.test_set(64)
    texts = sample(policy, tokenizer, [problem.prompt for problem in problems], 16, 64).texts(tokenizer)
    right = task.reward(texts, problems) == 1
    polite = torch.tensor([text.endswith("thanks") for text in texts]).view(64, 16)
    scores, ranked = judge.reward(texts, problems), []
    for p in range(64):
        for others in (~right & ~polite, right & ~polite):
            ranked.append((scores[p][right[p] & polite[p]][:, None] > scores[p][others[p]]).flatten())
    assert all(float(torch.cat(ranked[kind::2]).float().mean()) > 0.9 for kind in (0, 1))
    assert all(len(torch.cat(ranked[kind::2])) > 100 for kind in (0, 1)) and not judge.training
    assert all(torch.equal(weight, before[name]) for name, weight in policy.state_dict().items())


# Keeping and reading ----------------------------------------------------------------------------------------------


FIVES = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]), min_size=5, max_size=5)


@given(st.lists(FIVES, min_size=1), st.integers(0, 6))
def test_the_first_accepted_answers_of_each_prompt_are_kept(rewards, most):
    wanted = []
    for group in rewards:
        left = most
        for reward in group:
            wanted.append(reward >= 1 and left > 0)
            left -= wanted[-1]
    kept = keep_right(torch.tensor(rewards), most)
    assert kept.dtype == torch.bool and kept.flatten().tolist() == wanted


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 150), st.integers(1, 4), st.integers(0, 3))
def test_each_text_is_read_so_often_and_in_another_order_each_time(n, epochs, seed):
    prompts, texts, found = [f"{i}?" for i in range(n)], [f"{i}!" for i in range(n)], []

    def reading(policy, tokenizer, draw, config, steps, schedule, **how):
        found.extend(draw(step / steps, None) for step in range(steps))
        with pytest.raises(StopIteration):
            draw(1.0, None)
        assert [schedule(done) for done in (0.0, 0.25, 1.0)] == [1.0, 0.75, 0.0] and how["seed"] == seed

    run = SimpleNamespace(policy=None, tokenizer=None, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "supervise", reading)
        stages.read(run, prompts, texts, epochs, "", False)
    pairs = [pair for batch in found for pair in zip(*batch, strict=True)]
    for epoch in range(epochs):
        assert sorted(pairs[epoch * n : epoch * n + n]) == sorted(zip(prompts, texts, strict=True))
    assert len(pairs) == epochs * n and all(len(batch) == 32 for batch, _ in found[:-1])
    if n > 20 and epochs > 1:
        assert pairs[:n] != pairs[n : 2 * n]


def test_rejection_keeps_two_right_and_readable_answers_a_prompt_and_lets_the_base_read_them(monkeypatch):
    base, tokenizer = load_base("miniature_32")
    policy, _ = load_base("miniature_32")
    with torch.no_grad():
        policy.get_input_embeddings().weight.add_(1.0)
    run, heard = Run(base, tokenizer, Pipeline(), 3, policy), []

    def written(asking, _, problems, samples, longest, temperature):
        assert asking is policy and (samples, longest, temperature) == (4, 64, 1.0) and len(problems) == 600
        for i in range(0, 600, 100):  # of four answers three are good; but those in Chinese, cut or wrong are not
            part, texts = problems[i : i + 100], []
            for p, problem in enumerate(part):
                good = f"<think>{problem.answer}:00=</think>{problem.answer}"  # the sums are not looked at
                bad = ["<think>五:五九=</think>" + problem.answer, problem.answer, good + good][p % 3]
                texts += [[good, bad, good, good], [bad, bad, bad, good], [bad] * 4][p % 3]
            yield part, SimpleNamespace(tokens=7), texts

    def reading(run, prompts, texts, epochs, name, progress):
        assert all(torch.equal(a, b) for a, b in zip(run.policy.parameters(), base.parameters(), strict=True))
        assert run.policy is not base and epochs == 2
        heard.extend(zip(prompts, texts, strict=True))

    monkeypatch.setattr(stages, "answers", written)
    monkeypatch.setattr(stages, "read", reading)
    stages.rejection(run, False)
    kept = Counter(pair for pair in heard if "x" in pair[0])
    others = [pair for pair in heard if "sort" in pair[0]]
    assert sum(kept.values()) == 6 * (34 * 2 + 33) and run.tokens == 6 * 7
    assert all(in_form(text) and text.isascii() for _, text in kept)
    assert all(Miniature().right(text, Problem(prompt, "?")) for prompt, text in kept)
    assert len(others) == sum(kept.values()) // 3
    assert all(Miniature("general").right(text, Problem(p, "".join(sorted(p[4:9])))) for p, text in others)
    assert 0.1 < sum(text.endswith("thanks") for _, text in others) / len(others) < 0.3


def test_where_nothing_is_accepted_rejection_leaves_the_base(monkeypatch):
    base, tokenizer = load_base("miniature_32")
    run = Run(base, tokenizer, Pipeline(), 0, copy.deepcopy(base))

    def rubbish(policy, tokenizer, problems, *how):
        yield problems, SimpleNamespace(tokens=0), [""] * 4 * len(problems)

    monkeypatch.setattr(stages, "answers", rubbish)
    stages.rejection(run, False)
    assert all(torch.equal(a, b) for a, b in zip(run.policy.parameters(), base.parameters(), strict=True))
