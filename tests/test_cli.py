"""The command line as a user meets it: results as promised, and one clear line for bad input."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from transformers.utils import logging as transformers_logging

from grpo_teach import evaluate
from grpo_teach.__main__ import main
from grpo_teach.commands import studies, training
from grpo_teach.policy import BASES, load_base, save_policy
from grpo_teach.r1 import stages

ROOT = Path(__file__).parents[1]
SMALL = ["--prompts", "2", "--group-size", "4", "--max-new-tokens", "8"]


def run(capsys, *arguments):
    """Exit code, lines of standard output, lines of standard error."""
    try:
        code = main([*map(str, arguments)])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err.splitlines()


def test_demo_ends_with_the_promised_json_and_writes_the_curves(capsys, tmp_path):
    code, out, _ = run(capsys, "demo", "--tokens", 3000, "--json", "--quiet", "--out", tmp_path)
    result = json.loads(out[-1])
    assert code == 0
    assert set(result["algorithms"]) == {"sft", "policy_gradient", "ppo", "grpo"}
    for measured in result["algorithms"].values():
        low, high = measured["interval"]
        assert 0 <= low <= measured["accuracy"] <= high <= 1
        assert measured["steps"] >= 1 and measured["seconds"] > 0 and 1 <= measured["mean_length"] <= 32
        # A run ends with the batch that reaches the budget, so it overshoots by less than one batch.
        assert 3000 <= measured["tokens"] < 3000 + 16 * 16 * 32
    assert 0.15 < result["base_accuracy"] < 0.35
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "results.json").read_text())["manifest"]["versions"]["torch"] == version("torch")


def test_train_then_evaluate_its_policy_and_its_checkpoint_alike(capsys, tmp_path):
    arguments = ["train", "--algorithm", "ppo", "--steps", 2, "--out", tmp_path, "--quiet", *SMALL]
    assert run(capsys, *arguments)[0] == 0
    ask = ["evaluate", "--problems", 64, "--json"]
    by_policy = json.loads(run(capsys, *ask, "--policy", tmp_path / "policy")[1][-1])
    by_checkpoint = json.loads(run(capsys, *ask, "--checkpoint", tmp_path / "checkpoint.pt")[1][-1])
    assert by_policy == by_checkpoint
    weights, base = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["models"], load_base()[0]
    assert not torch.equal(weights["policy.lm_head.weight"], base.lm_head.weight), "two steps must change the policy"


def test_pretrain_is_deterministic_for_a_seed(capsys, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run(capsys, "pretrain", "--steps", 2, "--seed", seed, "--quiet", "--out", tmp_path / name)[0] == 0
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b and a != c


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["train", "--algorithm", "dpo"], "dpo"),
        (["train", "--group-size", "1"], "group_size"),
        (["train", *SMALL, "--minibatches", "9"], "minibatches"),
        (["train", "--baseline", "none"], "baseline"),
        (["train", "--learning-rate", "nan"], "learning_rate"),
        (["train", "--temperature", "0"], "temperature"),
        (["train", "--steps", "0"], "steps"),
        (["train", "--seed", "9" * 30], "--seed"),
        (["evaluate", "--seed", "-1"], "--seed"),
        (["train", "--evaluate-every", "-5"], "--evaluate-every must be at least 0"),
        (["train", "--problems", "-1"], "--problems must be at least 0"),
        (["supervise", "--problems", "-1"], "--problems must be at least 0"),
        (["supervise", "--max-new-tokens", "0"], "--max-new-tokens must be at least 1"),
        (["preflight", "--test-problems", "-1"], "--test-problems must be at least 0"),
        (["preflight", "--samples", "2", "--group-size", "4"], "samples at least a group"),
        (["evaluate", "--model", "."], "no tokenizer that can be read"),
        (["train", "--schedule", "cosine", "--warmup", "3", "--steps", "3"], "warmup"),
        (["train", "--policy", "../no/such"], "no such folder"),
        (["train", "--policy", "nope"], "nope: there is no such folder"),
        (["train", "--addends", "1"], "addends"),
        (["train", "--addends", "five"], "addends"),
        (["train", "--policy", "no/such/folder"], "no/such/folder"),
        (["train", "--out", "/proc/nowhere"], "/proc/nowhere"),
        (["demo", "--out", "/proc/nowhere"], "/proc/nowhere"),
        (["compare", "--algorithms", "grpo", "best"], "best"),
        (["demo", "--tokens", "0"], "tokens"),
        (["evaluate", "--problems", "0"], "problems"),
        (["evaluate", "--temperature", "-1"], "temperature"),
        (["evaluate", "--max-new-tokens", "0"], "max_new_tokens"),
        (["evaluate", "--checkpoint", "missing.pt"], "missing.pt"),
        (["pretrain", "--steps", "0"], "steps"),
        (["r1", "fly"], "fly"),
        (["r1", "zero", "cold,"], "cold,"),
        (["r1", "--paid", "luck"], "luck"),
        (["r1", "--paid", ""], "accuracy"),
        (["r1", "--tokens", "0"], "tokens"),
        (["r1", "--examples", "0"], "examples"),
        (["r1", "--beta", "-1"], "beta"),
        (["r1", "--learning-rate", "nan"], "learning_rate"),
        (["r1", "--base", "nowhere"], "nowhere"),
        (["r1", "--base", "chain_sum"], "chain_sum"),
        (["r1", "--policy", "no/such/folder"], "no/such/folder"),
        (["r1", "--out", "/proc/nowhere"], "/proc/nowhere"),
        (["fly"], "fly"),
        ([], "command"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(capsys, arguments, word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == []
    assert len(err) == 1 and err[0].startswith("error: ") and word in err[0]


def test_a_second_run_never_overwrites_the_first(capsys, tmp_path):
    arguments = ["train", "--steps", 1, "--out", tmp_path, "--quiet", "--evaluate-every", 0, *SMALL]
    assert run(capsys, *arguments)[0] == 0
    before = (tmp_path / "checkpoint.pt").read_bytes()
    code, _, err = run(capsys, *arguments)
    assert code == 2 and "resume" in err[0]
    code, _, err = run(capsys, *arguments, "--resume", "--seed", 7)
    assert code == 2 and "seed" in err[0]
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_stages_leave_their_policies_and_never_overwrite_a_run(capsys, tmp_path, monkeypatch):
    def quick(policy, tokenizer, task, problems, samples, **asked):
        return evaluate(policy, tokenizer, task, 8, samples=8, **asked)

    monkeypatch.setattr(stages, "evaluate", quick)
    small = ["--base", "miniature_32", "--tokens", 1, "--examples", 32, "--quiet", "--json"]
    code, out, _ = run(capsys, "r1", "cold", "--out", tmp_path / "a", *small)
    assert code == 0 and [line.split()[0] for line in out[1:3]] == ["base", "cold"]
    going_on = ["r1", "reasoning", "--policy", tmp_path / "a" / "cold", *small, "--out", tmp_path / "b"]
    code, out, _ = run(capsys, *going_on)
    assert code == 0 and [line.split()[0] for line in out[1:3]] == ["start", "reasoning"]
    held = json.loads((tmp_path / "b" / "results.json").read_text())
    assert json.loads(out[-1]) == {name: held[name] for name in ("accuracy", "tokens", "seconds")}
    assert held["manifest"]["config"] | {"stages": "reasoning", "tokens": 1} == held["manifest"]["config"]
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for folder in "ab":
        code, out, err = run(capsys, *going_on[:-1], tmp_path / folder)
        assert code == 2 and out == [] and len(err) == 1 and "already holds a run" in err[0]
    foreign = ["r1", "reasoning", "--policy", BASES / "chain_sum", "--out", tmp_path / "c"]
    code, out, err = run(capsys, *foreign)
    assert code == 2 and out == [] and err[-1].startswith("error: the policy cannot read")
    assert files == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_no_command_writes_over_a_model(capsys, tmp_path):
    policy, tokenizer = load_base()
    save_policy(policy, tokenizer, tmp_path / "mine")
    save_policy(policy, tokenizer, tmp_path / "cold" / "policy")  # as supervise leaves it
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    commands = {"pretrain": ["--steps", "1"], "supervise": ["--steps", "1"], "train": ["--steps", "1", *SMALL]}
    started = ["train", "--policy", tmp_path / "mine", "--out", tmp_path, "--steps", 1, *SMALL]
    for asked, word in (
        *(([name, *flags, "--out", tmp_path / "mine"], "holds a model") for name, flags in commands.items()),
        *(([name, *flags, "--out", tmp_path / "cold"], "holds a policy") for name, flags in commands.items()),
        (started, "mine lies in"),
        ([*started, "--resume"], "mine lies in"),
    ):
        code, out, err = run(capsys, *asked)
        assert code == 2 and out == [] and len(err) == 1 and word in err[0]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_disk_that_is_full_is_one_line(capsys, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training, "write_json", full)
    code, _, err = run(capsys, "evaluate", "--problems", 4, "--quiet", "--out", tmp_path)
    assert code == 2 and len(err) == 1 and err[0].startswith("error: ") and "No space left" in err[0]


def test_quiet_is_said_to_transformers_too(capsys):
    transformers_logging.enable_progress_bar()
    try:
        run(capsys, "evaluate", "--problems", 0, "--quiet")
        assert not transformers_logging.is_progress_bar_enabled()
    finally:
        transformers_logging.enable_progress_bar()


def test_a_half_written_checkpoint_is_refused_and_left_alone(capsys, tmp_path):
    arguments = ["train", "--steps", 1, "--out", tmp_path, "--quiet", "--evaluate-every", 0, *SMALL]
    assert run(capsys, *arguments)[0] == 0
    half = (tmp_path / "checkpoint.pt").read_bytes()[:2000]
    (tmp_path / "checkpoint.pt").write_bytes(half)
    for command in ([*arguments, "--resume"], ["evaluate", "--checkpoint", tmp_path / "checkpoint.pt"]):
        code, _, err = run(capsys, *command)
        assert code == 2 and len(err) == 1 and "checkpoint" in err[0]
    assert (tmp_path / "checkpoint.pt").read_bytes() == half
    torch.save({"step": 1}, tmp_path / "checkpoint.pt")  # whole, without any weights
    code, _, err = run(capsys, "evaluate", "--checkpoint", tmp_path / "checkpoint.pt")
    assert code == 2 and len(err) == 1 and "checkpoint" in err[0]


def test_an_algorithm_that_is_named_twice_is_trained_once(capsys, tmp_path):
    asked = ["compare", "--algorithms", "grpo", "grpo", "--tokens", 1, *SMALL]
    code, out, _ = run(capsys, *asked, "--json", "--quiet", "--out", tmp_path)
    assert code == 0 and list(json.loads(out[-1])["algorithms"]) == ["grpo"]


@pytest.mark.parametrize("command, goes_on", [("demo", False), ("compare", True)])
def test_only_a_command_that_can_go_on_says_so(capsys, tmp_path, monkeypatch, command, goes_on):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(studies, "compare", interrupted)
    (tmp_path / "another").mkdir()
    (tmp_path / "another" / "checkpoint.pt").touch()
    code, _, err = run(capsys, command, "--out", tmp_path)
    assert code == 130 and len(err) == 1 and ("--resume" in err[0]) == goes_on


def test_a_run_that_diverges_names_its_checkpoint_only_where_there_is_one(capsys, tmp_path):
    far = ["train", "--learning-rate", "1e30", "--steps", 8, "--prompts", 4, "--group-size", 16, "--quiet"]
    far += ["--evaluate-every", 0, "--problems", 0]
    for every, kept in ((10, False), (1, True)):
        code, _, err = run(capsys, *far, "--checkpoint-every", every, "--out", tmp_path / str(every))
        assert code == 1 and len(err) == 1 and err[0].startswith("stopped: step ")
        assert ("checkpoint" in err[0]) == kept == (tmp_path / str(every) / "checkpoint.pt").exists()


def test_a_console_that_cannot_write_a_dash_gets_its_report(tmp_path):
    asked = [sys.executable, "-m", "grpo_teach", "evaluate", "--problems", "2", "--max-new-tokens", "2", "--quiet"]
    said = subprocess.run(
        asked, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )
    assert said.returncode == 0 and "interval" in said.stdout and not said.stderr


@pytest.mark.parametrize(
    "command", ["demo", "compare", "train", "evaluate", "pretrain", "preflight", "merge", "memory", "r1"]
)
def test_every_command_explains_itself(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert "--seed" in " ".join(out) and "--out" in " ".join(out) and "--json" in " ".join(out)
