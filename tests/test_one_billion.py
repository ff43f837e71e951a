"""The study of a billion weights, end to end on a tiny shape: pretrained, compared, beside TRL, stopped and resumed."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from states import differences
from test_large import SHAPES

from grpo_teach import InputError, score
from grpo_teach.large import load_large, model_config
from grpo_teach.memory import Setup, Shape, predict
from grpo_teach.rollout import from_text
from grpo_teach.tasks import WordProblems

pytest.importorskip("datasets")
pytest.importorskip("math_verify")
sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import one_billion
from one_billion import Study, compare, expected, main, pretrain
from one_billion_trl import FixedLength

TOKENS = 4000


@pytest.fixture(scope="module")
def shape(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shape")
    SHAPES["llama"].save_pretrained(folder)
    return str(folder)


def tiny_study(shape, **changed):
    sizes = {"tokens": TOKENS, "batch": 2, "seeds": 1, "steps": 1, "problems": 2, "prompts": 2, "group_size": 2}
    sizes |= {"max_new_tokens": 3, "prompt_tokens": 12, "rows_a_pass": 2, "rate": 3e-3, "grade": "coin"}
    given = {"model": shape, "device": "cpu", "dtype": "float32", "data": "sample"} | sizes | changed
    return Study(**given)


@pytest.fixture(scope="module")
def base(shape, tmp_path_factory):
    out = tmp_path_factory.mktemp("base")
    return out, pretrain(tiny_study(shape), out)


# pretrain ---------------------------------------------------------------------------------------------------------


def test_pretraining_reads_its_tokens_and_learns_the_solutions(shape, base):
    out, found = base
    assert TOKENS <= found["tokens"] < TOKENS + 2 * 1500 and set(found["figures"]) == {"strict", "lenient", "format"}
    held = json.loads((out / "base.json").read_text())
    assert held["tokens"] == found["tokens"] and held["manifest"]["config"]["rate"] == 3e-3
    learnt, tokenizer = load_large(out / "base", "full", "float32", "cpu")
    fresh, _ = load_large(shape, "full", "float32", "cpu", random_weights=True)
    task = WordProblems(tokenizer, "sample")
    problems = task.test_set(4)
    rows = from_text(tokenizer, [p.prompt for p in problems], [task.demonstration(p) for p in problems])
    with torch.no_grad():
        nats = [-float(score(policy, rows).sum() / rows.mask.sum()) for policy in (fresh, learnt)]
    assert nats[1] < nats[0] - 1, nats


def test_pretraining_goes_on_where_it_was_stopped(shape, base, tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    def stop(*_):
        raise Stopped

    save = one_billion.records.save_checkpoint
    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(one_billion.records, "save_checkpoint", lambda *a: save(*a) or stop())
        pretrain(tiny_study(shape), tmp_path, every=2)
    assert not (tmp_path / "base").exists()
    with pytest.raises(InputError, match="other settings"):
        pretrain(tiny_study(shape, rate=1e-3), tmp_path)
    assert pretrain(tiny_study(shape), tmp_path) == base[1]
    whole, again = (load_large(out / "base", "full", "float32", "cpu")[0].state_dict() for out in (base[0], tmp_path))
    assert differences(whole, again) == []


# compare ----------------------------------------------------------------------------------------------------------


def test_all_combinations_are_run_recorded_and_not_repeated(shape, base, tmp_path, monkeypatch):
    shutil.copytree(base[0] / "base", tmp_path / "base")
    first = compare(tiny_study(shape, methods=("lora",), algorithms=("grpo", "ppo")), tmp_path)
    assert list(first["runs"]) == ["grpo lora 0", "ppo lora 0"]
    trained, train = [], one_billion.train
    monkeypatch.setattr(one_billion, "train", lambda *a, **k: trained.append((a[3].label, k["seed"])) or train(*a, **k))
    held = compare(tiny_study(shape, algorithms=("grpo",), seeds=2), tmp_path)
    assert trained == [("GRPO", 0), ("GRPO", 1), ("GRPO", 1)]  # qlora 0, lora 1, qlora 1
    assert held["runs"].keys() == first["runs"].keys() | {"grpo qlora 0", "grpo lora 1", "grpo qlora 1"}
    assert json.loads(json.dumps(held)) == json.loads((tmp_path / "compare.json").read_text())
    for name, run in held["runs"].items():
        assert run["problems"] == 2 and run["tokens"] == 2 * 2 * 3 and run["tokens_a_second"] > 0
        assert run["peak_bytes"] is None, "a CPU has no allocator to ask"
        assert (tmp_path / name.replace(" ", "-") / "checkpoint.pt").exists()
    with pytest.raises(InputError, match="learning_rate"):
        compare(tiny_study(shape, learning_rate=1e-3), tmp_path)


def test_a_run_that_breaks_down_is_recorded_and_the_next_goes_on(shape, base, tmp_path, monkeypatch):
    shutil.copytree(base[0] / "base", tmp_path / "base")
    train = one_billion.train

    def full(*arguments, **options):
        if arguments[3].label == "PPO":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return train(*arguments, **options)

    monkeypatch.setattr(one_billion, "train", full)
    held = compare(tiny_study(shape, methods=("lora",), algorithms=("ppo", "grpo")), tmp_path)
    assert held["runs"]["ppo lora 0"] == {"stopped": "out of memory under 16.0 GiB"}
    assert "accuracy" in held["runs"]["grpo lora 0"]


def test_the_cap_is_a_share_of_the_card(monkeypatch):
    card, asked = type("Card", (), {"total_memory": 80 * 2**30}), []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", asked.append)
    Study().under_cap()
    Study(cap=90 * 2**30).under_cap()
    Study(device="cpu").under_cap()
    assert asked == [0.2, 1.0]


# expect, trl, and the command -------------------------------------------------------------------------------------


def test_what_is_expected_is_the_ledgers_peak():
    study = Study(cap=3 * 2**30)
    found = expected(study, 256)
    assert len(found) == 8
    given = {"algorithm": "ppo", "critic": "head", "method": "qlora", "prompt_tokens": 256}
    ledger = predict(Setup(Shape.of(model_config("llama-3.2-1b")), **given))
    assert found["ppo qlora"] == {"bytes": ledger.terms["total"], "phase": ledger.peak[0], "fits": True}
    assert not found["ppo lora"]["fits"]


def test_prompts_of_one_length_cost_a_coin():
    task = FixedLength(12)
    problems = task.sample(50, torch.Generator())
    assert {len(problem.prompt) for problem in problems} == {12} and len(set(problems)) == 50
    rewards = task.reward([str(i) for i in range(400)], problems)
    assert 0.4 < rewards.mean() < 0.6


def flags_of(study):
    values = {name: value for name, value in dataclasses.asdict(study).items() if name != "cap"}
    for name, value in values.items():
        yield "--" + name.replace("_", "-")
        yield from map(str, value if isinstance(value, tuple) else [value])


def test_the_whole_as_commands(capsys, shape, base, tmp_path):
    pytest.importorskip("trl")
    shutil.copytree(base[0], tmp_path, dirs_exist_ok=True)
    study = tiny_study(shape, algorithms=("sft", "policy_gradient"), methods=("qlora",))
    ask = [*flags_of(study), "--cap", "4GiB", "--out", str(tmp_path), "--quiet", "--json"]
    results = {}
    for part, more in (("pretrain", []), ("compare", []), ("trl", []), ("compare", ["--expect"])):
        capsys.readouterr()
        assert main([part, *ask, *more]) == 0
        results[part, *more] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert results["pretrain",] == json.loads(json.dumps(base[1])), "the checkpoint had read enough"
    assert set(results["compare",]["runs"]) == {"sft qlora 0", "policy_gradient qlora 0"}
    trl = results["trl",]
    assert set(trl) == {"grpo_teach qlora", "trl qlora"} and trl["grpo_teach qlora"]["predicted_bytes"] > 0
    assert all(row["tokens_a_second"] > 0 and row["peak_bytes"] is None for row in trl.values())
    assert {row["learns_in"] for row in trl.values()} <= {"float32", "bfloat16"}
    assert trl["grpo_teach qlora"]["learns_in"] == "float32"
    assert json.loads((tmp_path / "trl.json").read_text())["manifest"]["config"]["cap"] == 4 * 2**30
    assert set(results["compare", "--expect"]) == {"sft qlora", "policy_gradient qlora"}


def test_what_was_measured_before_trl_failed_is_kept(monkeypatch, shape, tmp_path):
    pytest.importorskip("trl")
    monkeypatch.setattr("one_billion_trl.with_trl", lambda *_: 1 / 0)
    ask = [*flags_of(tiny_study(shape, methods=("qlora",))), "--out", str(tmp_path), "--quiet"]
    with pytest.raises(ZeroDivisionError):
        main(["trl", *ask])
    held = json.loads((tmp_path / "trl.json").read_text())
    assert held["grpo_teach qlora"]["tokens_a_second"] > 0 and held["manifest"]["config"]["methods"] == ["qlora"]


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["compare"], "make one first"),
        (["compare", "--group-size", "1"], "make one first"),
        (["pretrain", "--expect"], "--expect"),
        (["pretrain", "--tokens", "0"], "tokens"),
        (["pretrain", "--rate", "0"], "rate"),
        (["compare", "--learning-rate", "nan"], "learning_rate"),
        (["pretrain", "--model", "no/such/shape"], "no/such/shape"),
        (["trl", "--rows-a-pass", "3"], "rows_a_pass"),
        (["trl", "--dtype", "float16"], "trl#4901"),
    ],
)
def test_bad_input_is_one_clear_line(capsys, tmp_path, monkeypatch, arguments, word):
    if "trl" in arguments:
        pytest.importorskip("trl")  # else its absence is the one clear line
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main([*arguments, "--device", "cpu", "--out", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and word in captured.err and captured.err.count("\n") == 1
