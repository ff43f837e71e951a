"""An adapter merged into its base: the same policy without peft, and one clear line where there is nothing to merge."""

import json

import pytest
import torch
from safetensors.torch import load_file
from test_large import LARGE, PROMPTS, SHAPES, tiny, waken
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo_teach.__main__ import main
from grpo_teach.large import load_large
from grpo_teach.large.merge import merge
from grpo_teach.policy import save_policy


@pytest.fixture
def adapter(tmp_path):
    """A base of the Llama shape in ``base``, a trained adapter of it in ``adapter``."""
    save_policy(*tiny(method="full"), tmp_path / "base")
    policy, tokenizer = load_large(tmp_path / "base", "lora", "float32", "cpu", rank=3)
    save_policy(waken(policy), tokenizer, tmp_path / "adapter")
    return tmp_path / "adapter"


def logits(policy, tokenizer):
    with torch.no_grad():
        return policy(**tokenizer(PROMPTS[1], return_tensors="pt")).logits


@LARGE
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_transformers_alone_reads_the_merged_policy(tmp_path, shape, method):
    save_policy(*tiny(shape, "full"), tmp_path / "base")
    policy, tokenizer = load_large(tmp_path / "base", method, "float32", "cpu", rank=3)
    save_policy(waken(policy), tokenizer, tmp_path / "adapter")
    assert merge(tmp_path / "adapter", tmp_path / "out") == (str(tmp_path / "base"), "float32")
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert not any("lora" in name for name, _ in merged.named_parameters())
    # Beside the whole base, whatever it was trained beside.
    whole, _ = load_large(tmp_path / "adapter", "lora", "float32", "cpu")
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits(merged, again), logits(whole, tokenizer), rtol=0, atol=1e-4)
    base, _ = load_large(tmp_path / "base", "full", "float32", "cpu")
    assert (logits(merged, again) - logits(base, again)).abs().max() > 0.1


def test_the_merged_weight_is_the_base_plus_the_product(adapter):
    merge(adapter, adapter.parent / "out")
    base, merged = (AutoModelForCausalLM.from_pretrained(adapter.parent / name) for name in ("base", "out"))
    held = load_file(adapter / "adapter_model.safetensors")
    layer = "model.layers.1.mlp.down_proj"
    a, b = (next(t for name, t in held.items() if layer in name and f"lora_{x}" in name) for x in "AB")
    difference = merged.get_submodule(layer).weight - base.get_submodule(layer).weight
    torch.testing.assert_close(difference.detach(), 2 * b @ a, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_the_command_keeps_the_bases_dtype_or_takes_another(capsys, adapter, dtype):
    ask = ["merge", "--policy", str(adapter), "--out", str(adapter.parent / "out"), "--dtype", dtype, "--json"]
    assert main(ask) == 0
    lines = capsys.readouterr().out.splitlines()
    meant = "float32" if dtype == "auto" else dtype
    assert json.loads(lines[-1])["dtype"] == meant and "4-bit" in lines[-2]
    merged = AutoModelForCausalLM.from_pretrained(adapter.parent / "out", dtype="auto")
    assert merged.dtype == getattr(torch, meant)


def broken(adapter, case):
    """What a reader may have, in place of an adapter beside its base; and a word of the line."""
    if case == "not an adapter":
        return adapter.parent / "base", "no folder of an adapter"
    if case == "nothing":
        return adapter.parent / "nowhere", "no folder of an adapter"
    if case == "not JSON":
        (adapter / "adapter_config.json").write_text("{")
        return adapter, "no folder of an adapter"
    if case == "no base any more":
        (adapter.parent / "base").rename(adapter.parent / "moved")
        return adapter, str(adapter.parent / "base")
    if case == "no weights":
        (adapter / "adapter_model.safetensors").unlink()
        return adapter, str(adapter)
    if case == "random weights":
        save_policy(*tiny(), adapter.parent / "random")
        return adapter.parent / "random", "random weights"
    SHAPES["llama"].save_pretrained(adapter.parent / "shape")
    policy, tokenizer = load_large(adapter.parent / "shape", "lora", "float32", "cpu", random_weights=True)
    save_policy(policy, tokenizer, adapter.parent / "random")
    return adapter.parent / "random", "random weights"


CASES = ["not an adapter", "nothing", "not JSON", "no base any more", "no weights", "random weights", "a shape's"]


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_merged_is_one_clear_line(capsys, adapter, monkeypatch, case):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder, word = broken(adapter, case)
    capsys.readouterr()
    assert main(["merge", "--policy", str(folder), "--out", str(adapter.parent / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and word in captured.err.splitlines()[-1]
    assert sum(line.startswith("error: ") for line in captured.err.splitlines()) == 1


def test_the_adapter_is_never_written_over(capsys, adapter):
    assert main(["merge", "--policy", str(adapter), "--out", str(adapter / ".." / "adapter")]) == 2
    assert "another folder" in capsys.readouterr().err
    assert not (adapter / "model.safetensors").exists()


@pytest.mark.parametrize("out", ["base", "other", "."])
def test_nor_is_its_base_or_any_other_model(capsys, adapter, out):
    save_policy(*tiny(method="full"), adapter.parent / "other")
    before = {path: path.read_bytes() for path in adapter.parent.rglob("*") if path.is_file()}
    assert main(["merge", "--policy", str(adapter), "--out", str(adapter.parent / out)]) == 2
    assert "choose another folder" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in adapter.parent.rglob("*") if path.is_file()} == before


def test_an_adapter_finds_its_base_from_any_folder(adapter, monkeypatch):
    monkeypatch.chdir(adapter.parent)
    save_policy(*load_large("base", "lora", "float32", "cpu", rank=3), "typed")
    monkeypatch.chdir(adapter)
    assert merge("../typed", "../out")[0] == str(adapter.parent / "base")
