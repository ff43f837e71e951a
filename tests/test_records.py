"""Files of a run: written whole or not at all, and never trusted when broken."""

import json
import os
import random
import subprocess
import sys
import time
import zipfile

import numpy
import pytest
import torch
from states import differences

from grpo_teach import ALGORITHMS, GRPO, ChainSum, InputError, records, train
from grpo_teach.learner import Learner
from grpo_teach.policy import Models, tiny_policy, tiny_tokenizer
from grpo_teach.records import (
    MetricsLog,
    load_checkpoint,
    manifest,
    random_states,
    restore_random_states,
    save_checkpoint,
)
from grpo_teach.studies.resume import resumed

STATE = {"step": 3, "weights": torch.arange(5000.0), "history": [{"reward": 0.5}]}


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, STATE)
    return path


def test_a_checkpoint_comes_back_as_it_was(checkpoint):
    assert differences(load_checkpoint(checkpoint), STATE) == []
    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint.pt"]


GROWTH = """
import sys
from pathlib import Path
from test_records import large_learner
from grpo_teach.memory.measure import resident
from grpo_teach.records import load_checkpoint

learner = large_learner()
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = resident()[0]
learner.restore(load_checkpoint(Path(sys.argv[1])))
print(resident()[1] - before)
"""


def large_learner():
    """21 million weights: with their two moments 250 MB."""
    grpo = ALGORITHMS["grpo"]
    return Learner(Models(tiny_policy(tiny_tokenizer(), 512, 5, 8, 2048)), grpo, grpo.Settings())


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux")
def test_a_checkpoint_is_restored_without_a_copy_of_it_in_memory(tmp_path):
    learner, path = large_learner(), tmp_path / "checkpoint.pt"
    for weight in learner.models.policy.parameters():
        weight.grad = torch.ones_like(weight)
    learner.optimizer.step()
    save_checkpoint(path, learner.state())
    size = path.stat().st_size
    assert size > 2e8
    here = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", GROWTH, path], capture_output=True, text=True, check=True, env=here)
    assert int(done.stdout) < 0.5 * size, "the weights, a third of it, are read; the moments are mapped"


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_checkpoint_cut_short_is_refused(checkpoint, share):
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match="checkpoint.pt"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("rubbish", [b"", b"not a checkpoint", random.Random(0).randbytes(20_000)], ids=len)
def test_rubbish_is_refused(checkpoint, rubbish):
    checkpoint.write_bytes(rubbish)
    with pytest.raises(InputError, match="checkpoint.pt"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("seed", range(8))
def test_a_checkpoint_with_a_few_wrong_bytes_is_refused_or_loads_unchanged(checkpoint, seed):
    content, place = bytearray(checkpoint.read_bytes()), random.Random(seed)
    for _ in range(20):
        content[place.randrange(len(content))] ^= 0xFF
    checkpoint.write_bytes(content)
    try:
        state = load_checkpoint(checkpoint)
    except InputError:
        return
    assert differences(state, STATE) == []


def test_a_missing_or_foreign_file_is_refused(tmp_path, checkpoint):
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("hello.txt", "hello")
    torch.save([1, 2, 3], tmp_path / "list.pt")
    torch.save({"weights": 1}, tmp_path / "other.pt")
    for name in ("missing.pt", "archive.zip", "list.pt", "other.pt"):
        with pytest.raises(InputError, match=name):
            load_checkpoint(tmp_path / name)


class Attack:
    """Pickles to a call that leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_strangers_checkpoint_runs_no_code(tmp_path, checkpoint):
    torch.save({"step": 1, "attack": Attack(tmp_path / "attacked")}, checkpoint)
    with pytest.raises(InputError):
        load_checkpoint(checkpoint)
    assert not (tmp_path / "attacked").exists()


def test_a_folder_is_filled_whole_or_not_at_all_and_keeps_what_else_is_in_it(tmp_path):
    def fill(text, error=None):
        with records.replacing(tmp_path / "policy") as new:
            (new / "weights").write_text(text)
            (new / "more").mkdir()
            (new / "more" / "template").write_text(text)
            if error:
                raise error

    fill("old")
    (tmp_path / "policy" / "mine").write_text("mine")
    for error in (RuntimeError("No space left on device"), KeyboardInterrupt()):
        with pytest.raises(InputError if isinstance(error, RuntimeError) else KeyboardInterrupt):
            fill("half", error)
        held = {path.name: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
        assert held == {"weights": "old", "template": "old", "mine": "mine"}
    (tmp_path / "policy" / ".part").mkdir()
    (tmp_path / "policy" / ".part" / "weights").write_text("left by a kill")
    fill("new")
    held = {path.name: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert held == {"weights": "new", "template": "new", "mine": "mine"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_checkpoint(checkpoint, monkeypatch, call):
    def fail(*_):
        raise OSError("the disk is gone")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(InputError, match="cannot write to .*checkpoint.pt: the disk is gone"):
        save_checkpoint(checkpoint, {"step": 4})
    monkeypatch.undo()
    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint.pt"]
    assert load_checkpoint(checkpoint)["step"] == 3
    save_checkpoint(checkpoint, {"step": 4})
    assert load_checkpoint(checkpoint)["step"] == 4


def test_random_states_restore_every_generator():
    def draw():
        return random.random(), float(numpy.random.rand()), float(torch.rand(()))

    states = random_states()
    first = draw()
    assert draw() != first
    restore_random_states(states)
    assert draw() == first


def test_random_states_survive_the_checkpoint(tmp_path):
    save_checkpoint(tmp_path / "c.pt", {"step": 0, "random": random_states()})
    first = random.random(), numpy.random.rand(), float(torch.rand(()))
    restore_random_states(load_checkpoint(tmp_path / "c.pt")["random"])
    assert first == (random.random(), numpy.random.rand(), float(torch.rand(())))


def test_a_runs_checkpoint_holds_the_random_states_of_python_numpy_and_torch(tmp_path, policy, tokenizer):
    config = GRPO(prompts=2, group_size=2, max_new_tokens=3)
    train(policy, tokenizer, ChainSum(2), ALGORITHMS["grpo"], config, steps=1, out=tmp_path, progress=False)
    noted = load_checkpoint(tmp_path / "checkpoint.pt")["random"]
    after = random_states()
    assert {"python", "numpy", "torch"} <= noted.keys()
    assert differences(noted, after) == []


def test_the_log_drops_rows_that_will_be_written_again(tmp_path):
    rows, log = [{"step": step, "reward": 0.1 * step} for step in range(4)], MetricsLog(tmp_path, [])
    for row in rows:
        log.write(row)
    MetricsLog(tmp_path, rows[:2]).write({"step": 2, "reward": -1.0})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["reward"]) for row in rows] == [(0, 0.0), (1, 0.1), (2, -1.0)]


def test_the_manifest_says_how_to_repeat_the_run():
    noted = manifest({"beta": 0.04}, seed=7)
    assert noted["config"] == {"beta": 0.04} and noted["seed"] == 7
    assert torch.__version__.startswith(noted["versions"]["torch"].split("+")[0])
    assert set(noted["versions"]) >= {"torch", "transformers", "numpy"}
    assert noted["threads"] == 1
    json.dumps(noted)


# Records that are gone on with ------------------------------------------------------------------------------------

ABOUT = {"config": {"steps": 3, "critic": "head"}, "seed": [0, 1], "device": "here", "commit": "new"}


def held(path, **changed):
    records.write_json(path, {"manifest": ABOUT | {"commit": "old"} | changed, "runs": ["kept"]})
    return path


def test_a_record_is_gone_on_with_and_keeps_its_first_commit(tmp_path):
    assert resumed(None, ABOUT, []) == (ABOUT, [])
    assert resumed(tmp_path / "none.json", ABOUT, {}) == (ABOUT, {})
    assert resumed(held(tmp_path / "a.json"), ABOUT, []) == (ABOUT | {"commit": "old"}, ["kept"])
    more = resumed(held(tmp_path / "a.json", seed=[0]), ABOUT, [], may_differ=["seed"])
    assert more == (ABOUT | {"commit": "old"}, ["kept"])


def test_a_value_head_by_its_older_name_is_the_same_record(tmp_path):
    older = held(tmp_path / "a.json", config={"steps": 3, "critic": "shared"})
    assert resumed(older, ABOUT, [])[1] == ["kept"]
    nested = {"variants": {"ppo": {"settings": {"critic": "shared", "name": "shared"}}}}
    assert records.in_todays_words(nested) == {"variants": {"ppo": {"settings": {"critic": "head", "name": "shared"}}}}


@pytest.mark.parametrize(
    "changed, named",
    [
        ({"device": "there"}, "device"),
        ({"seed": [0]}, "seed"),
        ({"config": {"steps": 4, "critic": "head"}}, r"config \(steps\)"),
        ({"config": {"steps": 3}}, r"config \(critic\)"),
    ],
)
def test_a_record_made_otherwise_is_refused_by_what_differs(tmp_path, changed, named):
    path = held(tmp_path / "a.json", **changed)
    before = path.read_text()
    with pytest.raises(InputError, match=named):
        resumed(path, ABOUT, [])
    assert path.read_text() == before


# Progress ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("terminal, most", [(False, 2), (True, 500)])
def test_a_bar_prints_a_line_a_refresh_on_a_terminal_alone(monkeypatch, capsys, terminal, most):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    with records.bar("training", "token", 5000) as bar:
        for _ in range(50):
            time.sleep(0.005)
            bar.set_postfix({"reward": "1"}, refresh=False)
            bar.update(100)
    shown = capsys.readouterr().err
    assert 1 <= shown.count("\r") <= most and " token" in shown and "5.00k/5.00k" in shown
    with records.bar("training", "token", 5000, progress=False):
        pass
    assert capsys.readouterr().err == ""
