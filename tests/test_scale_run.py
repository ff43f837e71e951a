"""The course's run in TRL: its data, its reward, its records; and on two processes, of which one is killed."""

import copy
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import PROMPTS, REWARDS, small_policy
from safetensors.torch import load_file
from test_scale_export import CLOSE, apart

from grpo_teach import ALGORITHMS, GRPO, ChainSum, sample, score, train
from grpo_teach.learner import Learner
from grpo_teach.policy import Models, save_policy
from grpo_teach.scale import trl_run

psutil = pytest.importorskip("psutil")
pytest.importorskip("trl", minversion="1.16")
pytest.importorskip("accelerate")


# Data, reward, records --------------------------------------------------------------------------------------------


def test_the_prompts_are_those_that_our_engine_draws(policy, tokenizer):
    config, seen = GRPO(prompts=3, group_size=2, max_new_tokens=4), []

    def note(completions, problems):
        seen.extend(problems)
        return torch.zeros(3, 2)

    task = ChainSum((2, 5))
    train(policy, tokenizer, task, ALGORITHMS["grpo"], config, steps=4, seed=7, reward=note, progress=False)
    rows = trl_run.prompts(task, config, 4, seed=7)
    assert [(row["prompt"], row["answer"]) for row in rows] == [tuple(problem) for problem in seen]
    assert trl_run.prompts(task, config, 1, 7, bos=rows[0]["prompt"][:2])[0]["prompt"] == rows[0]["prompt"][2:]


def test_the_reward_is_the_tasks(tokenizer):
    task, logged = ChainSum(2), {}
    texts = ["3", "<think>1+2=3;</think>3", "4", ""]
    paid = trl_run.reward_function(task)(["1+2="] * 4, texts, ["3"] * 4, log_metric=logged.__setitem__, ids=None)
    assert paid == [1.0, 1.0, 0.0, 0.0] and logged == {"thinks": 0.25}


def test_a_checkpoint_that_is_not_whole_is_passed_over(tmp_path):
    for step in (4, 8, 12, 100):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text('{"global_step": 4}')
        for i in range(2):
            torch.save({}, folder / f"rng_state_{i}.pth")
    assert trl_run.newest_checkpoint(tmp_path, 2).name == "checkpoint-100"  # not by the alphabet
    assert trl_run.newest_checkpoint(tmp_path, 3) is None
    (tmp_path / "checkpoint-100" / "trainer_state.json").write_text('{"global_st')
    assert trl_run.newest_checkpoint(tmp_path, 2).name == "checkpoint-12"
    (tmp_path / "checkpoint-12" / "rng_state_1.pth").write_bytes(b"PK\x03\x04")
    assert trl_run.newest_checkpoint(tmp_path, 2).name == "checkpoint-8"
    (tmp_path / "checkpoint-8" / "trainer_state.json").unlink()
    assert trl_run.newest_checkpoint(tmp_path, 2).name == "checkpoint-4"
    assert trl_run.newest_checkpoint(tmp_path / "nowhere", 2) is None


def test_metrics_go_on_where_the_checkpoint_was_taken(tmp_path):
    config = GRPO(prompts=2, group_size=4, epochs=3)
    state, control = SimpleNamespace(global_step=3), SimpleNamespace(should_training_stop=False, should_save=False)
    logs = {"reward": 0.5, "completions/mean_length": 10.0, "thinks": 0.25, "entropy": 1.0, "frac_reward_zero_std": 0.5}
    logs |= {"loss": "0.1", "grad_norm": 2.0, "step_time": 0.5}
    first = trl_run.OurMetrics(tmp_path, config, 0, 200, writes=True)
    for state.global_step in (3, 6, 9):
        first.on_log(None, state, control, logs)
    assert control.should_training_stop and control.should_save  # 3 batches x 8 rows x 10 tokens
    rows = trl_run.read_metrics(tmp_path)
    assert [(row["step"], row["tokens"], row["seconds"], row["mixed_groups"]) for row in rows] == [
        (0, 80, 1.5, 0.5), (1, 160, 3.0, 0.5), (2, 240, 4.5, 0.5)
    ]  # fmt: skip
    second = trl_run.OurMetrics(tmp_path, config, 2, None, writes=True)  # the last batch came after the checkpoint
    second.on_log(None, SimpleNamespace(global_step=9), control, logs | {"completions/mean_length": 20.0})
    second.on_log(None, state, control, {"train_runtime": 1.0})
    assert [row["tokens"] for row in trl_run.read_metrics(tmp_path)] == [80, 160, 320]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--trl", "beta=0.1"], "beta: it follows from our settings"),
        (["--trl", "nonsense=1"], "nonsense: it is no argument"),
        (["--prompts", "0"], "prompts must be"),
        (["--steps", "0"], "--steps must be at least 1"),
        (["--policy", "/nowhere"], "cannot load a tokenizer"),
    ],
)
def test_what_cannot_work_is_one_line(flags, says, tmp_path, capsys):
    assert trl_run.main([*flags, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


# Two processes ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """The folder in which two processes were launched and the second was killed in mid-run; the rollouts they had."""
    from grpo_teach.policy import tiny_tokenizer

    folder, tokenizer = tmp_path_factory.mktemp("two"), tiny_tokenizer()
    start = small_policy(tokenizer)
    save_policy(start, tokenizer, folder / "small")
    start = copy.deepcopy(start).double()
    save_policy(start, tokenizer, folder / "policy")
    torch.manual_seed(2)
    rollouts = sample(start, tokenizer, PROMPTS, 4, 10)
    assert int(rollouts.lengths[:6].sum()) != int(rollouts.lengths[6:].sum()), "halves of unequal tokens"
    ids = zip(rollouts.completion_ids.tolist(), rollouts.lengths.tolist(), strict=True)
    batch = {"prompts": [prompt for prompt in PROMPTS for _ in range(4)], "ids": [row[:n] for row, n in ids]}
    batch |= {"prompt_ids": tokenizer(batch["prompts"])["input_ids"], "rewards": REWARDS.flatten().tolist()}
    torch.save(batch, folder / "batch.pt")

    root = Path(__file__).parent
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += ["--max_restarts", "1", str(root / "two_processes.py"), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root.parent), "TRL_EXPERIMENTAL_SILENCE": "1"}
    with open(folder / "said", "w") as said:
        launcher = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        guard = threading.Timer(600, launcher.terminate)  # it ends its workers too: a run that hangs fails
        guard.daemon = True
        guard.start()
        while launcher.poll() is None and len(trl_run.read_metrics(folder / "killed")) < 3:
            time.sleep(0.05)
        workers = [p for p in psutil.Process(launcher.pid).children(recursive=True) if p.environ().get("RANK") == "1"]
        (victim,) = [worker for worker in workers if "two_processes.py" in " ".join(worker.cmdline())]
        os.kill(victim.pid, signal.SIGKILL)
        ended = launcher.wait()
        guard.cancel()
    assert ended == 0, (folder / "said").read_text()[-3000:]
    return SimpleNamespace(folder=folder, start=start, rollouts=rollouts)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sequence_mean", "token_mean", "fixed_length"])
def test_a_batch_learnt_by_two_processes_ends_at_our_weights(launched, how):
    config = GRPO(prompts=3, group_size=4, max_new_tokens=10, learning_rate=1e-3, aggregation=how)
    policy, rollouts = copy.deepcopy(launched.start), launched.rollouts
    rollouts = replace(rollouts, mask=rollouts.mask.double(), old_logprobs=rollouts.old_logprobs.double())
    with torch.no_grad():
        rollouts = replace(rollouts, old_logprobs=score(policy, rollouts))
    Learner(Models.build(policy), ALGORITHMS["grpo"], config).learn(rollouts, REWARDS)
    found = torch.load(launched.folder / f"{how}.pt")
    assert apart(dict(policy.named_parameters()), found, launched.start) < CLOSE


@pytest.mark.slow
def test_a_killed_worker_is_noticed_and_the_run_ends_with_all_its_steps(launched):
    starts = sorted((launched.folder / "starts").read_text().splitlines())
    assert starts == [f"{rank} of 2, start {restart}" for rank in (0, 1) for restart in (0, 1)]
    rows = trl_run.read_metrics(launched.folder / "killed")
    assert [row["step"] for row in rows] == list(range(8))
    tokens = [row["tokens"] for row in rows]
    assert tokens == sorted(set(tokens)) and tokens[-1] <= 8 * 6 * 6
    asked = json.loads((launched.folder / "killed" / "evaluation.json").read_text())
    assert asked["steps"] == 8 and asked["tokens"] == tokens[-1] and asked["problems"] == 4


@pytest.mark.slow
def test_it_ends_as_if_nothing_had_happened(launched):
    alone, killed = (launched.folder / name for name in ("alone", "killed"))
    rows = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in trl_run.read_metrics(f)] for f in (alone, killed)
    ]
    assert rows[0] == rows[1]
    weights = [load_file(folder / "policy" / "model.safetensors") for folder in (alone, killed)]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
