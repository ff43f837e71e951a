"""A watched run: it learns as the plain one does, and can be scheduled, masked, read, ended and gone on with."""

import copy
import json
import os
import signal
import time
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from states import differences, run_differences

from grpo_teach import ALGORITHMS, ChainSum, InputError, evaluate, load_policy, sample, train
from grpo_teach.__main__ import FINISHED, INTERRUPTED, main
from grpo_teach.evaluate import Evaluation
from grpo_teach.large import load_large, long_run
from grpo_teach.large.long_run import GREEDY, Board, LongRun, Stop, Watch, rate_factor, stop_on_interrupt
from grpo_teach.policy import BASES
from grpo_teach.rollout import Rollouts, ends, from_text

SIZES = {"prompts": 3, "group_size": 4, "max_new_tokens": 5, "learning_rate": 1e-3}


class AnyDigit(ChainSum):
    """Half of all first digits are right, so that an untrained policy sees mixed groups."""

    def reward(self, completions, problems):
        return torch.tensor([float(text[:1] in set("02468")) for text in completions]).reshape(len(problems), -1)


@pytest.fixture
def run(template, tokenizer, tmp_path):
    """Train a fresh copy of the same small policy, watched."""

    def run(out="run", steps=6, name="grpo", watched=True, asked=None, callbacks=(), **keywords):
        extra = ("keep_every", "stop", "problems")
        mine = {key: keywords.pop(key) for key in extra if key in keywords}
        folder, algorithm = tmp_path / out, ALGORITHMS[name]
        kind = partial(keywords.pop("made_by", LongRun), watch=Watch(**(asked or {})), steps=6, out=folder, **mine)
        keywords |= {"kind": kind} if watched else {}
        config = algorithm.Settings(**SIZES, **keywords.pop("settings", {}))
        policy = copy.deepcopy(template)
        how = {"steps": steps, "out": folder, "progress": False, "callbacks": callbacks}
        return train(policy, tokenizer, AnyDigit(2), algorithm, config, **how, **keywords)

    return run


# The learning rate ------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(0, 250), st.sampled_from(["constant", "linear", "cosine"]))
def test_the_rate_rises_over_the_warm_up_and_then_never_again(steps, warmup, schedule):
    rates = [rate_factor(step, steps, schedule, warmup) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    up, down = rates[: warmup + 1], rates[warmup:]
    assert up == pytest.approx([(i + 1) / (warmup + 1) for i in range(len(up))])
    assert down == sorted(down, reverse=True)
    if schedule == "constant":
        assert set(down) <= {1.0}
    elif steps > warmup + 1:
        assert down[0] == 1.0 and down[-1] < 1
        assert rate_factor(steps, steps, schedule, warmup) == pytest.approx(0, abs=1e-12)


def test_the_cosine_is_half_way_at_half_time_and_flat_at_both_ends():
    rates = [rate_factor(step, 1000, "cosine", 0) for step in range(1000)]
    assert rates[500] == pytest.approx(0.5)
    assert 1 - rates[10] < 1e-3 and rates[990] < 1e-3
    assert [rate_factor(step, 4, "linear", 0) for step in range(4)] == [1, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("warmup, alone", [(6, 0), (4, 2)])
def test_a_warm_up_as_long_as_the_run_leaves_no_room_for_a_schedule(run, warmup, alone):
    asked = {"name": "ppo", "settings": {"critic": "separate", "critic_warmup": alone}}
    with pytest.raises(InputError, match=f"warmup must end before the run's {6 - alone} steps"):
        run(asked={"schedule": "cosine", "warmup": warmup}, **asked)
    run("shorter", steps=1, asked={"schedule": "cosine", "warmup": warmup - 1}, **asked)
    run("constant", steps=1, asked={"warmup": warmup}, **asked)  # it may be gone on with, to more steps


def test_every_group_of_the_optimizer_follows_the_schedule(run):
    seen = []

    def note(row):
        seen.append(row["learning_rate"])

    trainer = run(name="ppo", asked={"schedule": "linear"}, callbacks=[note],
                  settings={"critic": "separate", "critic_learning_rate": 4e-3})  # fmt: skip
    assert seen == pytest.approx([1e-3 * (1 - i / 6) for i in range(6)])
    assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx([1e-3 / 6, 4e-3 / 6])


def test_the_critics_head_start_is_at_its_full_rate_and_the_policys_warm_up_comes_after_it(run):
    rates = []

    class Note(LongRun):
        def learn(self, *arguments):
            rates.append([group["lr"] for group in self.optimizer.param_groups])
            return super().learn(*arguments)

    settings = {"critic": "separate", "critic_learning_rate": 4e-3, "critic_warmup": 2}
    run(name="ppo", asked={"warmup": 1, "schedule": "linear"}, settings=settings, made_by=Note)
    wanted = [rate_factor(step, 4, "linear", 1) for step in (0, 0, 0, 1, 2, 3)]  # 6 steps, 2 of them the critic's
    assert [policy for policy, _ in rates] == pytest.approx([1e-3 * factor for factor in wanted])
    assert [critic for _, critic in rates] == pytest.approx([4e-3, 4e-3] + [4e-3 * factor for factor in wanted[2:]])


# It is the same run -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
def test_being_watched_changes_nothing(run, name):
    plain, watched = (
        run("plain", name=name, watched=False),
        run("watched", name=name, asked={"greedy": True}, problems=8),
    )
    rates = [row.pop("learning_rate") for row in watched.history]
    assert rates == [1e-3] * 6
    assert differences([plain.history], [watched.history]) == []
    one, other = (trainer.models.trainable().state_dict() for trainer in (plain, watched))
    assert differences(dict(one), dict(other)) == []


def test_a_watched_run_that_was_cut_goes_on_to_the_last_bit(run, tmp_path):
    asked = {"schedule": "cosine", "warmup": 2, "mask_cut_off": True}
    whole = {"asked": asked, "evaluate_every": 2, "checkpoint_every": 2, "keep_every": 2}
    run("one", **whole)
    run("two", steps=3, **whole)
    run("two", steps=6, resume=True, **whole)
    assert run_differences(tmp_path / "one", tmp_path / "two") == []
    texts = [(tmp_path / name / "completions.txt").read_text() for name in ("one", "two")]
    assert texts[0] == texts[1] and texts[0].count("=== step") == 6 * Watch.completions


@pytest.mark.parametrize("change", [{"schedule": "linear"}, {"warmup": 3}, {"mask_cut_off": True}])
def test_another_schedule_or_mask_is_another_run_and_another_log_is_not(run, change):
    run(steps=2)
    run(steps=3, resume=True, asked={"completions": 1, "greedy": True, "max_hours": 5.0})
    with pytest.raises(InputError, match=next(iter(change))):
        run(resume=True, asked=change)


# Completions that were cut off ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_was_cut_off_is_left_out_of_the_loss_and_counts_in_its_group(run, name, monkeypatch, tokenizer):
    algorithm, seen = ALGORITHMS[name], []

    def spy(models, rollouts, rewards, config):
        seen.append((rollouts, rewards))
        yield from algorithm.update(models, rollouts, rewards, config)

    monkeypatch.setitem(ALGORITHMS, name, algorithm._replace(update=spy))
    trainer = run(name=name, steps=3, asked={"mask_cut_off": True})
    marks = torch.tensor(ends(trainer.models.policy, tokenizer))
    kinds = set()
    for rollouts, rewards in seen:
        assert rewards.shape == (3, 4)
        for ids, mask in zip(rollouts.completion_ids, rollouts.mask, strict=True):
            ended = bool(torch.isin(ids, marks).any())
            kinds.add(ended)
            assert bool(mask.any()) == ended
    assert kinds == {True, False}
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in trainer.history)
    assert all(row["length"] > 1 for row in trainer.history)  # what is logged and paid is the whole text


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_batch_that_was_cut_off_whole_teaches_nothing(run, name):
    trainer = run(name=name, steps=0, asked={"mask_cut_off": True})
    rows = from_text(trainer.tokenizer, ["1+2="] * 4, ["12345"] * 4)
    cut = Rollouts(rows.prompt_ids, rows.prompt_mask, *(t[:, :5] for t in list(vars(rows).values())[2:]))  # no EOS
    before = copy.deepcopy(trainer.models.policy.state_dict())
    row = trainer.learn(cut, torch.tensor([[1.0, 0.0, 1.0, 0.0]]))
    assert row["loss"] == 0 and row["grad_norm"] == 0
    assert differences(dict(before), dict(trainer.models.policy.state_dict())) == []


# The likeliest answer, and the best policy ------------------------------------------------------------------------


def test_greedily_every_token_is_the_likeliest(policy, tokenizer):
    rollouts = sample(policy, tokenizer, ["1+2=", "3+4+5="], 3, 6, temperature=GREEDY)
    for b in range(len(rollouts)):
        prompt = rollouts.prompt_ids[b][rollouts.prompt_mask[b] > 0].tolist()
        for t in range(int(rollouts.lengths[b])):
            ids = torch.tensor([prompt + rollouts.completion_ids[b, :t].tolist()])
            assert policy(input_ids=ids).logits[0, -1].argmax() == rollouts.completion_ids[b, t]


def test_an_adapter_of_another_rank_or_scale_is_another_run(tmp_path, monkeypatch):
    folder = BASES / "chain_sum"
    held = {}
    for rank, alpha in ((4, 8), (4, 16), (2, 8), (4, 8)):
        policy, tokenizer = load_large(folder, "lora", "float32", "cpu", rank=rank, alpha=alpha)
        kind = partial(LongRun, steps=2, out=tmp_path)
        grpo = ALGORITHMS["grpo"]
        how = {"steps": 1 + bool(held), "out": tmp_path, "resume": True, "progress": False, "kind": kind}
        asked = policy, tokenizer, ChainSum(2), grpo, grpo.Settings(**SIZES)
        if (rank, alpha) != (4, 8):
            with pytest.raises(InputError, match="lora_alpha" if alpha != 8 else "lora_rank"):
                train(*asked, **how)
        else:
            held[alpha] = train(*asked, **how).step
    assert held == {8: 2}


def test_the_best_policy_is_kept_and_the_latest(run, tmp_path, monkeypatch, tokenizer):
    shares, held = iter([0.2, 0.5, 0.4]), []

    def scripted(policy, *_, **__):
        share = next(shares)
        held.append(copy.deepcopy(policy.state_dict()))
        return Evaluation(share, (0.0, 1.0), {1: share}, 1.0, 0.0, 8, 1, 1.0)

    monkeypatch.setattr(long_run, "evaluate", scripted)
    trainer = run(evaluate_every=2, keep_every=4, problems=512)  # as many as the loop asks
    assert trainer.best == 0.5 and trainer.before["accuracy"] == 0.2
    best, latest = (load_policy(tmp_path / "run" / name)[0] for name in ("best", "latest"))
    assert differences(dict(held[1]), dict(best.state_dict())) == []
    assert differences(dict(held[2]), dict(latest.state_dict())) == []  # after step 4, as the evaluation before step 4


def test_the_evaluation_before_the_first_step_is_made_once(run, monkeypatch):
    calls = []
    monkeypatch.setattr(long_run, "evaluate", lambda *a, **k: calls.append(a[3]) or evaluate(*a, **k))
    for name, mine, every in (("a", 8, 0), ("b", 8, 1), ("c", 512, 1), ("d", 0, 0)):
        before = run(name, steps=1, problems=mine, evaluate_every=every).before
        assert before.get("problems", 0) == mine
    assert calls == [8, 512, 8, 512]


# What is written --------------------------------------------------------------------------------------------------


def test_the_log_shows_completions_of_different_prompts_with_what_they_were_paid(run, tmp_path):
    trainer = run(steps=1, asked={"completions": 5})
    (texts, problems, rewards), rows = trainer.said, (0, 2, 4, 7, 9)  # of 3 prompts with 4 completions each
    wanted = [f"=== step 0 paid {rewards[b]:g}, right is {problems[b // 4].answer}\n{texts[b]}\n" for b in rows]
    assert (tmp_path / "run" / "completions.txt").read_text() == "".join(wanted)


def test_tensorboard_shows_each_row_once_after_a_kill_and_a_resume(tmp_path):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    evaluation = {"accuracy": 0.5, "interval": [0.4, 0.6], "figures": {"strict": 0.25}}
    rows = [{"step": i, "reward": i / 8, "tokens": 10 * i} for i in range(4)]
    rows[2]["evaluation"] = evaluation
    board = Board(tmp_path, 0)
    for row in rows[:2] + [{"step": 2, "reward": 99.0}]:  # the third came after the last checkpoint
        board.numbers(row, row["step"])
        board.completions([("said", 1.0, "7")], row["step"])
    board = Board(tmp_path, 2)
    for row in rows[2:]:
        board.numbers(row, row["step"])
        board.completions([("said again", 0.0, "7")], row["step"])
    held = reading.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    seen = {name: [(e.step, e.value) for e in held.Scalars(name)] for name in held.Tags()["scalars"]}
    assert seen["reward"] == [(i, i / 8) for i in range(4)] and seen["tokens"] == [(i, 10 * i) for i in range(4)]
    assert seen.keys() == {"reward", "tokens", "evaluation/accuracy", "evaluation/figures/strict"}
    assert seen["evaluation/accuracy"] == [(2, 0.5)] and seen["evaluation/figures/strict"] == [(2, 0.25)]
    assert "completions/text_summary" in held.Tags()["tensors"]
    assert (tmp_path / "completions.txt").read_text().count("=== step 2 ") == 1
    (tmp_path / "completions.txt").write_bytes(b"=== step 0 \xff\n=== step 2 said\n")  # cut within a character
    Board(tmp_path, 2)
    assert (tmp_path / "completions.txt").read_text() == "=== step 0 \ufffd\n"


# Ending in good order ---------------------------------------------------------------------------------------------


def test_a_run_ends_by_the_clock_or_when_asked_with_a_checkpoint(run, tmp_path):
    trainer = run("clock", asked={"max_hours": 1e-9}, checkpoint_every=100)
    assert trainer.step == 1 and trainer.stopped and (tmp_path / "clock" / "latest").exists()
    assert torch.load(tmp_path / "clock" / "checkpoint.pt", weights_only=True)["step"] == 1
    stop = Stop()
    trainer = run("asked", stop=stop, callbacks=[lambda row: setattr(stop, "asked", row["step"] == 2)])
    assert trainer.step == 4  # the step that is under way is finished, and the question comes at its end


@pytest.fixture
def interruptible():
    """A process that was started in the background may have been told to ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_interrupt_asks_and_the_second_interrupts(interruptible):
    before = signal.getsignal(signal.SIGINT)
    with stop_on_interrupt() as stop:
        with pytest.raises(KeyboardInterrupt):  # no step has begun
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        assert not stop.asked
        stop.begun = True
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_command_that_is_interrupted_leaves_its_policy_and_goes_on(tmp_path, capsys, monkeypatch, interruptible):
    step, out = LongRun.learn, tmp_path / "run"
    monkeypatch.setattr(
        LongRun, "learn", lambda self, *a: (self.step == 1 and os.kill(os.getpid(), 2), step(self, *a))[1]
    )
    asked = ["train", "--steps", "3", "--prompts", "2", "--group-size", "2", "--evaluate-every", "0", "--problems", "8"]
    assert main([*asked, "--out", str(out), "--quiet"]) == INTERRUPTED
    assert "--resume" in capsys.readouterr().err
    assert (out / "policy" / "model.safetensors").exists()
    monkeypatch.setattr(LongRun, "learn", step)
    assert main([*asked, "--out", str(out), "--quiet", "--resume", "--json"]) == FINISHED
    ended = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert ended["steps"] == 3 and ended["before"]["problems"] == ended["problems"] == 8


def test_an_interrupt_before_the_first_step_ends_at_once_and_promises_nothing(
    tmp_path, capsys, monkeypatch, interruptible
):
    asked = ["train", "--steps", "1", "--prompts", "2", "--group-size", "2", "--problems", "8", "--quiet"]

    def interrupted(*arguments, **named):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
        raise AssertionError("the evaluation went on")

    monkeypatch.setattr(long_run, "evaluate", interrupted)
    assert main([*asked, "--evaluate-every", "0", "--out", str(tmp_path)]) == INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"


def test_going_on_to_fewer_steps_than_are_made_is_refused(run, tmp_path):
    run(steps=6)
    fewer = partial(LongRun, steps=4, out=tmp_path / "run")

    def short(*arguments, watch, steps, out, **named):
        return fewer(*arguments, watch=watch, **named)

    with pytest.raises(InputError, match="6 steps on, further than the 4"):
        run(steps=4, resume=True, made_by=short)
