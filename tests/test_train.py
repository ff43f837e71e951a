"""The training loop: resuming, evaluating on the way, stopping, and refusing to go on with NaN."""

import copy
import json
import math
import random

import numpy
import pytest
import torch
from conftest import small_policy
from states import differences, run_differences

from grpo_teach import ALGORITHMS, ChainSum, InputError, TrainingDiverged, records, train
from grpo_teach.commands.flags import reward_of
from grpo_teach.policy import tiny_policy

SIZES = {"prompts": 3, "group_size": 4, "max_new_tokens": 5, "learning_rate": 1e-3}
CASES = {
    "sft": {},
    "policy_gradient": {"minibatches": 2},
    "ppo": {"critic": "separate", "epochs": 2, "minibatches": 3, "kl_coefficient": 0.1}
    | {"critic_learning_rate": 1e-3, "critic_warmup": 4, "whiten": True},  # a run is resumed inside the warm-up
    "grpo": {"epochs": 2, "minibatches": 2, "beta": 0.05},
}


class AnyDigit(ChainSum):
    """Half of all first digits are right, so that an untrained policy sees mixed groups."""

    def reward(self, completions, problems):
        scores = [float(text[:1] in set("02468")) for text in completions]
        return torch.tensor(scores).reshape(len(problems), -1)


@pytest.fixture
def run(template, tokenizer):
    """Train a fresh copy of the same small policy. A resumed run finds every random state in disorder."""

    def run(name="grpo", out=None, steps=6, task=None, algorithm=None, settings=None, **keywords):
        disorder = 1 if keywords.get("resume") else 0
        random.seed(disorder)
        numpy.random.seed(disorder)
        torch.seed()  # a run sets this one itself
        algorithm = algorithm or ALGORITHMS[name]
        config = algorithm.Settings(**SIZES | CASES[name] | (settings or {}))
        task = task or AnyDigit(2)
        policy = keywords.pop("policy", None) or copy.deepcopy(template)
        return train(policy, tokenizer, task, algorithm, config, steps=steps, out=out, progress=False, **keywords)

    return run


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(trainer):
    return trainer.models.trainable().state_dict()


# Resuming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_is_bit_identical(run, tmp_path, name):
    whole = run(name, tmp_path / "whole", evaluate_every=4, problems=8)
    run(name, tmp_path / "parts", steps=2, evaluate_every=4, problems=8)
    resumed = run(name, tmp_path / "parts", resume=True, evaluate_every=4, problems=8)
    assert run_differences(tmp_path / "whole", tmp_path / "parts") == []
    assert differences(weights(whole), weights(resumed)) == []
    assert differences(whole.history, resumed.history) == []
    assert any(row["grad_norm"] > 0 for row in whole.history[2:]), "the resumed part should have learnt something"


def test_a_run_that_broke_between_checkpoints_writes_each_step_once(run, tmp_path):
    run(out=tmp_path / "whole", checkpoint_every=2)

    def stop_at_step_3(row):
        if row["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path / "broken", checkpoint_every=2, callbacks=[stop_at_step_3])
    with (tmp_path / "broken" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rew')  # a line that a kill cut short
    run(out=tmp_path / "broken", checkpoint_every=2, resume=True)
    assert [row["step"] for row in rows(tmp_path / "broken")] == list(range(6))
    assert run_differences(tmp_path / "whole", tmp_path / "broken") == []


def test_resuming_a_finished_run_changes_nothing(run, tmp_path):
    run(out=tmp_path, steps=3)
    before = (tmp_path / "metrics.jsonl").read_text(), (tmp_path / "checkpoint.pt").read_bytes()
    assert run(out=tmp_path, steps=3, resume=True).step == 3
    assert before == ((tmp_path / "metrics.jsonl").read_text(), (tmp_path / "checkpoint.pt").read_bytes())


def test_resuming_where_nothing_is_yet_starts_from_the_beginning(run, tmp_path):
    whole, resumed = run(steps=2), run(out=tmp_path, steps=2, resume=True)
    assert differences(weights(whole), weights(resumed)) == []
    assert differences(whole.history, resumed.history) == []


@pytest.mark.parametrize(
    "change, named",
    [
        ({"seed": 1}, "seed"),
        ({"settings": {"learning_rate": 2e-3}}, "learning_rate"),
        ({"settings": {"group_size": 6, "scale": "none"}}, "group_size, scale"),
        ({"task": AnyDigit(3)}, "task"),
        ({"name": "sft"}, "algorithm"),
    ],
    ids=str,
)
def test_resuming_with_other_settings_is_refused_by_name(run, tmp_path, change, named):
    run(out=tmp_path, steps=1)
    with pytest.raises(InputError, match=named):
        run(out=tmp_path, resume=True, **change)


def test_resuming_from_another_starting_policy_is_refused(run, tmp_path, tokenizer):
    run(out=tmp_path, steps=1)
    wider = tiny_policy(tokenizer, hidden_size=48, heads=2, intermediate_size=64)
    same_shape = small_policy(tokenizer, seed=1)
    for other in (wider, same_shape):
        with pytest.raises(InputError, match="starting_weights"):
            run(out=tmp_path, resume=True, policy=other)


def test_resuming_from_a_broken_checkpoint_is_refused(run, tmp_path):
    run(out=tmp_path, steps=1)
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(InputError, match="checkpoint.pt"):
        run(out=tmp_path, resume=True)


@pytest.mark.parametrize("lost", ["random", "config", "history", "scaler"])
def test_a_checkpoint_that_lacks_something_is_refused(run, tmp_path, lost):
    run(out=tmp_path, steps=1)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del state[lost]
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match={"config": "other settings"}.get(lost, lost)):
        run(out=tmp_path, resume=True)


@pytest.mark.parametrize("text", ['[1, 2]\n{"reward": 1.0}\n', "no JSON\n", ""])
def test_the_metrics_come_from_the_checkpoint_whatever_became_of_their_file(run, tmp_path, text):
    run(out=tmp_path / "whole")
    run(out=tmp_path / "damaged", steps=2)
    (tmp_path / "damaged" / "metrics.jsonl").write_text(text)
    run(out=tmp_path / "damaged", resume=True)
    assert run_differences(tmp_path / "whole", tmp_path / "damaged") == []


def test_a_log_that_cannot_be_written_is_refused_and_the_last_good_step_named(run, tmp_path, monkeypatch):
    written, log = [], records.MetricsLog.write

    def full(self, row):
        written.append(row)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        log(self, row)

    monkeypatch.setattr(records.MetricsLog, "write", full)
    with pytest.raises(InputError, match="No space left on device; .*checkpoint.pt holds the last good step"):
        run(out=tmp_path, checkpoint_every=1)


# Evaluating on the way --------------------------------------------------------------------------------------------


def test_evaluating_during_training_changes_nothing(run):
    plain = run("ppo")
    watched = run("ppo", evaluate_every=1, problems=16)
    assert differences(weights(plain), weights(watched)) == []
    evaluations = [row.pop("evaluation") for row in watched.history]
    assert differences(plain.history, watched.history) == []
    assert len(evaluations) == 6 and all(e["problems"] == 16 for e in evaluations)


def test_evaluations_come_before_every_nth_step(run):
    history = run(steps=5, evaluate_every=2, problems=4).history
    assert [row["step"] for row in history if "evaluation" in row] == [0, 2, 4]


# Learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_every_algorithm_raises_the_reward(run, name):
    settings = {"learning_rate": 3e-3, "prompts": 8, "group_size": 8}
    rewards = [row["reward"] for row in run(name, steps=20, settings=settings).history]
    first, last = sum(rewards[:3]) / 3, sum(rewards[-3:]) / 3
    assert last > first + 0.3


# Stopping, callbacks, metrics -------------------------------------------------------------------------------------


def test_callbacks_see_every_row_as_it_is_logged(run, tmp_path):
    seen, order = [], []
    callbacks = [seen.append, lambda row: order.append((1, row["step"])), lambda row: order.append((2, row["step"]))]
    trainer = run(out=tmp_path, steps=3, callbacks=callbacks)
    assert seen == trainer.history == rows(tmp_path)
    assert order == [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2), (2, 2)]


def test_a_budget_of_tokens_ends_the_run_at_the_first_step_that_reaches_it(run):
    trainer = run(steps=None, tokens=100)
    counts = [row["tokens"] for row in trainer.history]
    assert counts[-2] < 100 <= counts[-1] == trainer.tokens
    assert counts == sorted(counts)
    assert run(steps=2, tokens=10**9).step == 2


def test_metrics_by_hand(run):
    table = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    texts = []

    class Judged(ChainSum):
        def reward(self, completions, problems):
            texts.extend(completions)
            return table

        def thinks(self, completion):
            return completion.startswith("<think>") or completion == texts[0]

    row = run(steps=1, task=Judged(2)).history[0]
    assert row["reward"] == pytest.approx(5 / 12)
    assert row["mixed_groups"] == pytest.approx(1 / 3)
    assert row["thinks"] * 12 == sum(t.startswith("<think>") or t == texts[0] for t in texts) > 0
    assert row["length"] == pytest.approx(row["tokens"] / 12)
    assert row["kl"] == pytest.approx(0, abs=1e-6)  # the reference is the policy before the first step
    assert row["step"] == 0 and row["grad_norm"] > 0


def test_the_learning_rate_bounds_adams_first_step(run, template):
    moved = weights(run("policy_gradient", steps=1, settings={"minibatches": 1}))
    steps = torch.cat([(moved[f"policy.{name}"] - w).abs().flatten() for name, w in template.state_dict().items()])
    assert 0 < steps.max() <= 1.01e-3  # Adam's first step is the learning rate times the gradient's sign


def test_impossible_requests_are_refused(run, tmp_path):
    with pytest.raises(InputError, match="steps or tokens"):
        run(steps=None)
    (tmp_path / "a_file").write_text("not a folder")
    with pytest.raises(InputError, match="a_file"):
        run(out=tmp_path / "a_file")
    run(out=tmp_path / "used", steps=1)
    with pytest.raises(InputError, match="already holds a run"):
        run(out=tmp_path / "used")


# NaN --------------------------------------------------------------------------------------------------------------


def spoil_weights(row, policy):
    if row["step"] == 2:
        with torch.no_grad():
            policy.model.norm.weight[0] = float("nan")


def spoiled_update(spoil):
    """GRPO whose loss is spoiled from step 3 on."""
    calls = []

    def update(models, rollouts, rewards, config):
        calls.append(1)
        for loss, metrics in ALGORITHMS["grpo"].update(models, rollouts, rewards, config):
            yield (spoil(loss, models.policy) if len(calls) > 3 else loss), metrics

    return ALGORITHMS["grpo"]._replace(update=update)


def nan_gradient(loss, policy):
    """A finite loss whose gradient is not: the square root has an infinite slope at 0."""
    return loss + (0.0 * policy.model.norm.weight.sum()).sqrt()


@pytest.mark.parametrize("quantity", ["log-prob", "loss", "gradient"])
def test_nan_stops_the_run_and_keeps_the_last_checkpoint(run, tmp_path, template, quantity):
    policy = copy.deepcopy(template)
    keywords = {"out": tmp_path / "run", "checkpoint_every": 2, "policy": policy}
    if quantity == "log-prob":
        keywords["callbacks"] = [lambda row: spoil_weights(row, policy)]
    elif quantity == "loss":
        keywords["algorithm"] = spoiled_update(lambda loss, _: loss * math.nan)
    else:
        keywords["algorithm"] = spoiled_update(nan_gradient)
    with pytest.raises(TrainingDiverged, match=f"step 3.*{quantity}"):
        run(**keywords)
    assert [row["step"] for row in rows(tmp_path / "run")] == [0, 1, 2]
    run(out=tmp_path / "run", resume=True)  # from the checkpoint after two steps, with the fault removed
    run(out=tmp_path / "whole")
    assert run_differences(tmp_path / "whole", tmp_path / "run") == []


def test_weights_that_overflow_stop_the_run_before_they_are_saved(run, tmp_path):
    with pytest.raises(TrainingDiverged, match="step 0.*weights"):
        run(out=tmp_path, settings={"learning_rate": 1e38, "epochs": 1, "minibatches": 1}, checkpoint_every=1)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_the_seed_decides_what_a_task_draws_from_pythons_and_numpys_generators(run):
    class Drawing(AnyDigit):
        def reward(self, completions, problems):
            shape = len(problems), len(completions) // len(problems)
            return torch.tensor([random.random() + numpy.random.rand() for _ in completions]).reshape(shape)

    first, second, other = (
        run(task=Drawing(2), steps=2, seed=seed, resume=again).history
        for seed, again in ((1, False), (1, True), (2, False))
    )
    assert differences(first, second) == []
    assert first[0]["reward"] != other[0]["reward"]


# Rewards ----------------------------------------------------------------------------------------------------------


def longest(completions, problems):
    """A proxy that pays for length, as a list of lists."""
    scores = [float(len(text)) for text in completions]
    size = len(scores) // len(problems)
    return [scores[i : i + size] for i in range(0, len(scores), size)]


def test_a_given_reward_is_what_training_pays_and_evaluation_stays_with_the_task(run):
    seen, inner = [], ALGORITHMS["grpo"]

    def spy(models, rollouts, rewards, config):
        seen.append(rewards)
        yield from inner.update(models, rollouts, rewards, config)

    watched = {"algorithm": inner._replace(update=spy), "evaluate_every": 1, "problems": 8, "steps": 1}
    proxy = run(reward=longest, **watched).history[0]
    honest = run(**watched).history[0]
    assert proxy["reward"] == pytest.approx(float(seen[0].mean())) and seen[0].max() > 1
    assert honest["reward"] != proxy["reward"] and set(seen[1].flatten().tolist()) <= {0.0, 1.0}
    assert proxy["evaluation"] == honest["evaluation"]


def test_the_tasks_own_reward_may_be_named(run):
    task = AnyDigit(2)
    named, plain = run(task=task, reward=task.reward, steps=2), run(task=task, steps=2)
    assert differences(named.history, plain.history) == [] and named.identity() == plain.identity()


def test_a_run_is_not_resumed_with_another_reward(run, tmp_path):
    run(out=tmp_path, steps=1)
    with pytest.raises(InputError, match="reward"):
        run(out=tmp_path, resume=True, reward=longest)


def test_a_reward_of_the_same_name_in_another_file_is_another_reward(run, tmp_path):
    paying = {}
    for worth in (1.0, 2.0):
        path = tmp_path / f"file_{worth:.0f}" / "mine.py"
        path.parent.mkdir()
        path.write_text(f"WORTH = {worth}\ndef pays(texts, problems):\n    return [[WORTH] * 4] * len(problems)\n")
        paying[worth] = reward_of(f"{path}:pays")
        run(out=tmp_path / str(worth), steps=1, reward=paying[worth])
    configs = [json.loads((tmp_path / str(worth) / "manifest.json").read_text())["config"] for worth in paying]
    assert configs[0]["reward"] == configs[1]["reward"] == "pays"
    with pytest.raises(InputError, match="settings: reward_source"):
        run(out=tmp_path / "1.0", resume=True, reward=paying[2.0])
    assert run(out=tmp_path / "2.0", steps=2, resume=True, reward=paying[2.0]).step == 2


@pytest.mark.parametrize(
    "wrong, word",
    [
        (lambda texts, problems: torch.zeros(len(texts)), "shape"),
        (lambda texts, problems: torch.zeros(len(problems), len(texts) // len(problems) + 1), "shape"),
        (lambda texts, problems: torch.full((len(problems), len(texts) // len(problems)), math.nan), "NaN"),
        (lambda texts, problems: None, "no numbers"),
        (lambda texts, problems: "1.0", "no numbers"),
        (lambda texts, problems: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda texts, problems: {}["two\nlines"], "KeyError"),
    ],
)
def test_a_reward_that_is_no_reward_is_refused_by_name(run, wrong, word):
    with pytest.raises(InputError, match=f"lambda.*{word}") as refused:
        run(reward=wrong)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("given", [math.inf, math.nan, "good", [1.0], None])
def test_the_completion_that_a_reward_fails_on_and_the_last_good_step_are_named(run, tmp_path, given):
    batches, bad = [], [given]

    def fails_later(texts, problems):
        batches.append(texts)
        size = len(texts) // len(problems)
        worth = [bad[0] if len(batches) > 2 and text == max(batches[2]) else 0.0 for text in texts]
        return [worth[i : i + size] for i in range(0, len(worth), size)]

    with pytest.raises(InputError, match="fails_later failed") as refused:
        run(out=tmp_path, reward=fails_later, checkpoint_every=1)
    assert repr(max(batches[2])) in str(refused.value) and str(tmp_path / "checkpoint.pt") in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1 and len(rows(tmp_path)) == 2
    bad[0] = 0.0  # mended under its own name
    assert run(out=tmp_path, reward=fails_later, resume=True).step == 6


class Mute(Exception):
    def __str__(self):
        raise RuntimeError


def test_a_reward_that_empties_its_lists_or_cannot_say_what_is_wrong_is_named_all_the_same(run):
    def empties(texts, problems):
        texts.clear()
        problems.clear()
        raise Mute

    with pytest.raises(InputError, match="empties failed.*Mute.*the completion is '"):
        run(reward=empties)


def test_a_reward_that_fails_on_whole_batches_alone_blames_no_completion(run):
    def of_many(texts, problems):
        if len(texts) > 1:
            raise ValueError("too many")
        return [[0.0]]

    with pytest.raises(InputError, match="of_many failed: ValueError: too many$"):
        run(reward=of_many)


def test_what_a_reward_says_of_a_missing_package_goes_through(run):
    def missing(texts, problems):
        raise InputError("sandbox is needed for this")

    with pytest.raises(InputError, match="^sandbox is needed for this$"):
        run(reward=missing)


def test_a_checkpoint_with_a_value_heads_older_name_is_gone_on_with(run, tmp_path):
    run("ppo", tmp_path, steps=1, settings={"critic": "head"})
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["config"]["critic"] == "head"
    state["config"]["critic"] = "shared"
    torch.save(state, tmp_path / "checkpoint.pt")
    assert run("ppo", tmp_path, steps=2, resume=True, settings={"critic": "shared"}).step == 2


@pytest.mark.parametrize(
    "algorithm, config", [("grpo", ALGORITHMS["grpo"].Settings()), (ALGORITHMS["grpo"], ALGORITHMS["ppo"].Settings())]
)
def test_settings_of_another_algorithm_are_refused_before_anything_is_sampled(policy, tokenizer, algorithm, config):
    with pytest.raises(InputError, match="settings of its own kind"):
        train(policy, tokenizer, AnyDigit(2), algorithm, config, steps=1, progress=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.bool])
def test_rewards_of_another_number_type_are_taken_as_they_are(run, dtype):
    seen, inner = [], ALGORITHMS["grpo"]

    def spy(models, rollouts, rewards, config):
        seen.append(rewards)
        yield from inner.update(models, rollouts, rewards, config)

    def paid(texts, problems):
        return (torch.arange(len(texts)) % 2).reshape(len(problems), -1).to(dtype)

    run(reward=paid, algorithm=inner._replace(update=spy), steps=1)
    assert seen[0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
