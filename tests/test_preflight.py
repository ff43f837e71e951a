"""Pre-flight: shares by hand and by counting, verdicts at their boundaries, and only training prompts asked."""

import itertools
import json
import sys
import time

import pytest
import torch
from chat import chat_tokenizer, tagged

from grpo_teach import ALGORITHMS, ChainSum, InputError, from_text, wilson_interval
from grpo_teach.__main__ import main
from grpo_teach.clinic.preflight import LEAST_MIXED, Grade, judge, mixed_if_alike, mixed_share, preflight
from grpo_teach.policy import save_policy, tiny_policy
from grpo_teach.tasks import WordProblems

GRPO = ALGORITHMS["grpo"]
SMALL = {"prompts": 2, "group_size": 4, "max_new_tokens": 8}
CONFIG = GRPO.Settings(**SMALL)

# Shares -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, group_size", [(n, g) for n in range(1, 7) for g in range(1, n + 1)])
def test_mixed_share_counts_the_groups_that_hold_both_kinds(n, group_size):
    for right in range(n + 1):
        groups = list(itertools.combinations([1] * right + [0] * (n - right), group_size))
        mixed = sum(0 < sum(group) < group_size for group in groups) / len(groups)
        assert mixed_share(n, right, group_size) == pytest.approx(mixed, abs=1e-12)


def test_prompts_that_are_alike_mix_as_often_as_dice_would():
    for p, size in ((0.3, 4), (0.02, 8), (1.0, 4), (0.0, 4)):
        rows = itertools.product([0, 1], repeat=size)
        expected = sum(p ** sum(r) * (1 - p) ** (size - sum(r)) for r in rows if 0 < sum(r) < size)
        assert mixed_if_alike(p, size) == pytest.approx(expected)


def test_a_grade_by_hand():
    grade = Grade.of([4, 0, 0, 2, 0], samples=4, group_size=4)
    assert grade.accuracy == pytest.approx(6 / 20) and grade.interval == wilson_interval(6 / 20, 5)
    assert (grade.mixed, grade.all_right, grade.all_wrong) == pytest.approx((1 / 5, 1 / 5, 3 / 5))
    assert grade.mixed_interval == wilson_interval(1 / 5, 5), "five groups, not twenty answers"
    assert grade.mixed_if_alike == pytest.approx(1 - 0.3**4 - 0.7**4)
    assert grade.pass_at_k == pytest.approx({1: 0.3, 2: (1 + 5 / 6) / 5, 4: 2 / 5})


def test_with_more_samples_than_a_group_the_share_is_still_the_groups():
    grade = Grade.of([1], samples=4, group_size=2)  # of 6 pairs 3 hold the right one
    assert (grade.mixed, grade.all_right, grade.all_wrong) == pytest.approx((0.5, 0, 0.5))


# Verdicts ---------------------------------------------------------------------------------------------------------


def counts(mixed, all_right, problems=100):
    """So many mixed groups of 4, so many all right, the others all wrong."""
    return Grade.of([1] * mixed + [4] * all_right + [0] * (problems - mixed - all_right), samples=4, group_size=4)


@pytest.mark.parametrize(
    "strict, lenient, verdict",
    [
        (counts(10, 0), None, "ready"),
        (counts(9, 0), None, "too hard"),
        (counts(9, 45), None, "too hard"),
        (counts(8, 46), None, "too hard"),
        (counts(9, 46), None, "too easy"),
        (counts(0, 100), None, "too easy"),
        (counts(10, 90), None, "ready"),
        (counts(0, 0), counts(10, 0), "format first"),
        (counts(0, 0), counts(9, 91), "too hard"),
        (counts(0, 100), counts(50, 0), "too easy"),
        (counts(10, 0), counts(50, 50), "ready"),
    ],
)
def test_verdicts_at_their_boundaries(strict, lenient, verdict):
    assert LEAST_MIXED == 0.1
    grades = {"strict": strict} | ({"lenient": lenient} if lenient else {})
    found, reason, advice = judge(grades, "strict", cut_off=0.0)
    assert found == verdict and f"{strict.mixed:.1%}" in reason and advice
    assert ("--grade lenient" in " ".join(advice)) == (verdict == "format first")


@pytest.mark.parametrize(
    "word, said, silent",
    [
        ("max_new_tokens", ({"strict": counts(50, 0)}, 0.1), ({"strict": counts(50, 0)}, 0.09)),
        ("more problems", ({"strict": counts(12, 0)}, 0.0), ({"strict": counts(50, 0)}, 0.0)),
        (
            "format alone",
            ({"strict": counts(40, 0), "lenient": counts(80, 0)}, 0.0),
            ({"strict": counts(40, 0), "lenient": counts(79, 0)}, 0.0),
        ),
    ],
)
def test_advice_is_given_where_it_is_due(word, said, silent):
    for (grades, cut_off), due in ((said, True), (silent, False)):
        assert (word in " ".join(judge(grades, "strict", cut_off)[2])) == due


# Asking -----------------------------------------------------------------------------------------------------------


class Noted(ChainSum):
    """Remembers which split was asked for."""

    def __init__(self, addends, pool=None):
        super().__init__(addends)
        object.__setattr__(self, "splits", [])
        object.__setattr__(self, "pool", pool)

    def sample(self, n, generator, split="train"):
        self.splits.append(split)
        drawn = super().sample(n, generator, split)
        return [self.pool[i % len(self.pool)] for i in range(n)] if self.pool else drawn


def test_only_training_prompts_are_asked_and_each_once(policy, tokenizer, monkeypatch):
    asked = []
    module = sys.modules["grpo_teach.evaluate"]
    sample = module.sample
    monkeypatch.setattr(
        module, "sample", lambda p, t, prompts, *rest: asked.extend(prompts) or sample(p, t, prompts, *rest)
    )
    task = Noted(2)
    found = preflight(policy, tokenizer, task, GRPO, CONFIG, problems=60)
    tested = {problem.prompt for problem in ChainSum(2).test_set(500)}
    assert set(task.splits) == {"train"} and tested.isdisjoint(asked)
    assert len(asked) == len(set(asked)) == found.problems > 50
    assert preflight(policy, tokenizer, Noted(2, task.sample(3, torch.Generator())), GRPO, CONFIG).problems == 3


def scripted(monkeypatch, texts):
    """Instead of sampling for the shares, give these texts; the rehearsal samples as ever."""

    def script(policy, tokenizer, prompts, samples, max_new_tokens, temperature):
        rollouts = from_text(tokenizer, [p for p in prompts for _ in range(samples)], texts)
        rollouts.completion_ids[0, rollouts.lengths[0] - 1] = 7  # the first has no end
        return rollouts

    monkeypatch.setattr(sys.modules["grpo_teach.evaluate"], "sample", script)


def test_every_grade_of_the_task_is_reported_by_hand(monkeypatch):
    tokenizer = chat_tokenizer()
    monkeypatch.setattr("grpo_teach.tasks.word_problems.load", lambda _: SPLITS)
    task = WordProblems(tokenizer, "sample", "strict")
    texts = ["It is 42.", tagged("42"), "42", "41"] + ["no"] * 4
    scripted(monkeypatch, texts)
    small = tiny_policy(tokenizer, hidden_size=16, layers=1, heads=2, intermediate_size=16).eval()
    found = preflight(small, tokenizer, task, GRPO, CONFIG, problems=2)
    assert list(found.grades) == ["strict", "lenient", "format"] and found.grade == "strict"
    assert [g.accuracy for g in found.grades.values()] == pytest.approx([1 / 8, 3 / 8, 1 / 8])
    assert [g.mixed for g in found.grades.values()] == pytest.approx([1 / 2] * 3)
    assert found.cut_off == 1 / 8 and found.mean_length == sum(len(text) + 1 for text in texts) / 8
    assert found.verdict == "ready" and (found.problems, found.samples, found.group_size) == (2, 4, 4)
    for name in found.grades:
        assert any(line.startswith(name) for line in found.lines())
    assert str(found).splitlines() == found.lines()


ROWS = [{"question": f"{q}?", "answer": "#### 42"} for q in ("How", "Why", "Which")]
SPLITS = {"train": ROWS[:2], "test": ROWS[2:]}


# The toy, and the command -----------------------------------------------------------------------------------------


def test_the_shipped_base_is_ready_and_what_no_one_solves_is_too_hard(base):
    config = GRPO.Settings(prompts=2, group_size=8)
    assert preflight(base.policy, base.tokenizer, ChainSum(5), GRPO, config).verdict == "ready"

    class Never(ChainSum):
        def right(self, completion, problem):
            return 0.0

    class Always(ChainSum):
        def right(self, completion, problem):
            return 1.0

    for task, verdict in ((Never(5), "too hard"), (Always(5), "too easy")):
        found = preflight(base.policy, base.tokenizer, task, GRPO, config, problems=8)
        assert found.verdict == verdict and found.grades["right"].mixed == 0


def test_the_command_ends_with_the_report_as_json(capsys, tmp_path):
    ask = ["preflight", "--prompts", "2", "--group-size", "4", "--problems", "8", "--samples", "6", "--quiet", "--json"]
    assert main([*ask, "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(lines[-1])
    assert lines[0].startswith(result["verdict"] + ": ") and result["verdict"] == "ready"
    assert (result["problems"], result["samples"], result["group_size"]) == (8, 6, 4)
    assert set(result["grades"]) == {"right"} and set(result["grades"]["right"]["pass_at_k"]) == {"1", "2", "4"}
    saved = json.loads((tmp_path / "preflight.json").read_text())
    assert saved["manifest"]["config"]["group_size"] == 4 and saved["verdict"] == "ready"


def test_the_command_knows_word_problems(capsys, tmp_path):
    tokenizer = chat_tokenizer()
    save_policy(tiny_policy(tokenizer, 16, 1, 2, 16), tokenizer, tmp_path)
    ask = ["preflight", "--policy", str(tmp_path), "--task", "gsm8k", "--data", "sample", "--max-new-tokens", "4"]
    assert main([*ask, "--prompts", "2", "--group-size", "2", "--problems", "3", "--quiet", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(result["grades"]) == ["strict", "lenient", "format"] and result["verdict"] == "too hard"
    assert result["cut_off"] > 0.9


def test_the_hours_of_a_run_include_its_evaluations(policy, tokenizer, monkeypatch):
    module = sys.modules["grpo_teach.evaluate"]
    sample = module.sample

    def slow(*arguments):
        time.sleep(0.5)
        return sample(*arguments)

    monkeypatch.setattr(module, "sample", slow)  # of the pre-flight's own answers, not of its rehearsal
    asked = {"problems": 5, "samples": 8, "budget_steps": 100}
    found = preflight(policy, tokenizer, ChainSum(2), GRPO, CONFIG, **asked, asked=1000)
    assert 0.5 <= found.evaluation_hours * 3600 * 40 / 1000 < 1, "seconds of 40 answers"
    assert found.hours == pytest.approx(100 * found.cost.seconds / 3600 + found.evaluation_hours)
    said = f"evaluation  1,000 answers, about {found.evaluation_hours:.2f} hours of them"
    assert said in found.lines()
    none = preflight(policy, tokenizer, ChainSum(2), GRPO, CONFIG, **asked)
    assert none.evaluation_hours == 0 and not any(line.startswith("evaluation") for line in none.lines())


def test_the_ledger_of_a_pre_flight_counts_the_evaluations(policy, tokenizer):
    found = preflight(policy, tokenizer, ChainSum(2), GRPO, CONFIG, problems=2, asked=400)
    none = preflight(policy, tokenizer, ChainSum(2), GRPO, CONFIG, problems=2)
    assert found.cost.peak_phase == "evaluation" != none.cost.peak_phase
    assert found.cost.predicted_bytes > none.cost.predicted_bytes


def test_a_padded_column_is_no_token_of_the_longest_prompt(policy, tokenizer, monkeypatch):
    module = sys.modules["grpo_teach.rollout"]
    encode, pad = module._encode_prompts, torch.nn.functional.pad
    found = preflight(policy, tokenizer, ChainSum(2), GRPO, CONFIG, problems=2).cost.predicted_bytes
    # As before Ampere, where Setup.of adds the column by itself.
    monkeypatch.setattr(module, "_encode_prompts", lambda *a: tuple(pad(tensor, (1, 0)) for tensor in encode(*a)))
    assert preflight(policy, tokenizer, ChainSum(2), GRPO, CONFIG, problems=2).cost.predicted_bytes == found


@pytest.mark.parametrize(
    "flags, asked",
    [
        ([], 20 * 512 + 2 * 1024),  # 200 steps, every tenth
        (["--steps", "21"], 3 * 512 + 2 * 1024),  # before steps 0, 10 and 20
        (["--steps", "21", "--evaluate-every", "0"], 2 * 1024),  # before and after
        (["--steps", "4", "--evaluate-every", "2", "--test-problems", "0"], 2 * 512),
        (["--evaluate-every", "0", "--test-problems", "0"], 0),
        (["--steps", "21", "--test-problems", "512"], 4 * 512),  # the one before is the loop's own
        (["--steps", "1", "--addends", "2", "--test-problems", "5"], len(ChainSum(2).test_set(512)) + 2 * 5),
    ],
)
def test_the_command_counts_the_evaluations_of_the_run(monkeypatch, flags, asked):
    def stop(*arguments, **options):
        seen.append(options["asked"])
        raise InputError("seen")

    seen = []
    monkeypatch.setattr("grpo_teach.commands.training.preflight", stop)
    assert main(["preflight", *flags]) == 2 and seen == [asked]


@pytest.mark.parametrize(
    "keywords, word",
    [
        ({"problems": 0}, "problems"),
        ({"budget_steps": 0}, "budget_steps"),
        ({"samples": 3}, "samples 3"),
        ({"config": ALGORITHMS["ppo"].Settings(group_size=1)}, "group_size 1"),
    ],
)
def test_impossible_requests_are_refused(policy, tokenizer, keywords, word):
    with pytest.raises(InputError, match=word):
        preflight(policy, tokenizer, ChainSum(2), GRPO, **({"config": CONFIG} | keywords))


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--problems", "0"], "--problems"),
        (["--samples", "0"], "--samples"),
        (["--steps", "0"], "--steps"),
        (["--test-problems", "-1"], "--test-problems"),
        (["--samples", "2"], "samples 2"),
        (["--baseline", "none"], "baseline"),
        (["--task", "gsm8k"], "--model"),
        (["--policy", "no/such/folder"], "no/such/folder"),
    ],
)
def test_bad_input_is_one_clear_line(capsys, arguments, word):
    assert main(["preflight", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and word in captured.err and captured.err.count("\n") == 1
