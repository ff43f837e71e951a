"""What a reader may bring to a large model: tokenizers of every kind, and the errors they meet, one line each."""

import argparse
import copy
import itertools
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_large import PROMPTS, SHAPE, SHAPES, tiny
from tokenizers import processors
from transformers import AutoTokenizer, LlamaForCausalLM, SeedOssConfig

from grpo_teach import InputError, TrainingDiverged, large, sample, score
from grpo_teach.commands.flags import chosen_model, model_flags
from grpo_teach.large import adamw8bit, load, load_large, stand_in_tokenizer
from grpo_teach.policy import save_policy

# Tokenizers -------------------------------------------------------------------------------------------------------


def test_the_stand_in_reads_bytes_and_writes_other_ids_as_numbers():
    tokenizer = stand_in_tokenizer(128256)
    text = "Zoë has 3 + 4 apples.\n"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.encode()) and max(ids) < 258
    ids = [*ids, 100_000, tokenizer.eos_token_id]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text + "[100000]"
    assert max(tokenizer("[100000]")["input_ids"]) < 258
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "1+1?"}], tokenize=False)
    assert chat == "user: 1+1?\nassistant: "
    with pytest.raises(InputError, match="258"):
        stand_in_tokenizer(257)


def test_a_tokenizer_without_pad_pads_with_eos_and_masks_stay_right(tmp_path):
    policy, tokenizer = tiny(method="full")
    tokenizer.pad_token = None
    save_policy(policy, tokenizer, tmp_path)
    policy, tokenizer = load_large(tmp_path, "full", "float32", "cpu")
    assert tokenizer.pad_token == tokenizer.eos_token
    with torch.no_grad():
        policy.lm_head.weight[tokenizer.eos_token_id] *= 3
    rollouts = sample(policy, tokenizer, PROMPTS, 16, 12)
    assert (rollouts.lengths < 12).any() and (rollouts.prompt_mask[0] == 0).any()
    last = rollouts.completion_ids[torch.arange(32), rollouts.lengths - 1]
    assert ((last == tokenizer.eos_token_id) | (rollouts.lengths == 12)).all()
    torch.testing.assert_close(score(policy, rollouts), rollouts.old_logprobs, rtol=0, atol=2e-5)


def test_a_prompt_that_brings_its_bos_gets_no_second_one():
    tokenizer = stand_in_tokenizer(319)
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("<bos> $A", None, [("<bos>", bos)])
    policy, _ = tiny(method="full")
    for prompt in ("hello", "<bos>hello"):
        ids = sample(policy, tokenizer, [prompt], 1, 1).prompt_ids[0].tolist()
        assert ids.count(bos) == 1 and ids[0] == bos and len(ids) == 6


# Bad input --------------------------------------------------------------------------------------------------------

HUB = {
    "gated": ("You are trying to access a gated repo.\nMake sure to have access to it at …", "hf auth login"),
    "no network": ("We couldn't connect to 'https://huggingface.co' to load the files, and …\nCheck …", "no network"),
    "unknown": ("org/name is not a local folder and is not a valid model identifier listed on …\nIf …", "org/name"),
}


@pytest.mark.parametrize("case", HUB)
def test_the_hubs_refusals_are_one_line_with_advice(monkeypatch, case):
    message, advice = HUB[case]

    def refuse(*arguments, **options):
        raise OSError(message)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", refuse)
    with pytest.raises(InputError, match="cannot load org/name") as caught:
        load_large("org/name", "full", device="cpu")
    assert advice in str(caught.value) and len(str(caught.value).splitlines()) == 1


def pretend_card(monkeypatch, capability):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")


def test_bfloat16_only_where_the_card_has_it(monkeypatch):
    pretend_card(monkeypatch, (7, 5))
    assert large.place("cuda", "auto", "qlora")[1] == torch.float16
    with pytest.raises(InputError, match="Tesla T4 has no bfloat16"):
        load_large("org/name", dtype="bfloat16")
    with pytest.raises(InputError, match="float16"):  # what auto means here
        load_large("org/name", "full")
    pretend_card(monkeypatch, (8, 0))
    assert large.place("cuda", "auto", "qlora")[1] == large.place("cpu", "auto", "full")[1] == torch.bfloat16


# Dropout that is no module ----------------------------------------------------------------------------------------

WAYS = [("full", "float32"), ("full", "bfloat16"), *itertools.product(("lora", "qlora"), load.SAME)]
WAYS = [(method, str(dtype).removeprefix("torch.")) for method, dtype in WAYS]


def seed_oss(**dropout):
    """A model whose dropouts are calls of a function."""
    return SeedOssConfig(**SHAPE, head_dim=16, **dropout)


@pytest.mark.parametrize("method, dtype", WAYS)
@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_model_that_scores_otherwise_than_it_samples_is_refused(method, dtype, checkpointing):
    asked = {"random_weights": True, "checkpointing": checkpointing}
    with pytest.raises(InputError, match="seed_oss: .* nats, so it cannot be trained here") as caught:
        load_large(seed_oss(residual_dropout=0.1), method, dtype, "cpu", **asked)
    assert "scored and scored in training mode differ" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    policy, _ = load_large(seed_oss(residual_dropout=0.0, attention_dropout=0.5), method, dtype, "cpu", **asked)
    assert not policy.training


def test_in_16_bits_rounding_is_only_warned_of(monkeypatch, capsys):
    monkeypatch.setitem(load.ROUNDED, torch.bfloat16, -1.0)
    load_large(SHAPES["llama"], "lora", "bfloat16", "cpu", random_weights=True)
    said = capsys.readouterr().err
    assert "warning: llama: its log-probs sampled and scored differ by" in said and "dropout" not in said


def test_what_overflows_in_float16_is_told_the_cure(monkeypatch):
    def overflows(*_, **__):
        raise TrainingDiverged("the log-probabilities of completion token 0 are not finite")

    monkeypatch.setattr(load, "sample_ids", overflows)
    with pytest.raises(InputError, match="float16; take float32"):
        load_large(SHAPES["llama"], "lora", "float16", "cpu", random_weights=True)
    with pytest.raises(InputError, match="no finite log-probs$"):
        load_large(SHAPES["llama"], "lora", "float32", "cpu", random_weights=True)


def test_a_model_whose_logits_are_changed_on_the_way_is_refused(monkeypatch):
    class Doubled(LlamaForCausalLM):
        def forward(self, *arguments, **named):
            output = super().forward(*arguments, **named)
            output.logits = 2 * output.logits
            return output

    monkeypatch.setattr(load, "random_model", lambda config, *rest: Doubled(config))
    with pytest.raises(InputError, match="llama: its log-probs sampled and scored differ"):
        tiny(method="full")


@settings(deadline=None, max_examples=8)
@given(
    shape=st.sampled_from([*SHAPES]), way=st.sampled_from(WAYS), checkpointing=st.booleans(), seed=st.integers(0, 99),
    rows=st.integers(1, 3), chunk=st.integers(1, 5),
)  # fmt: skip
def test_ordinary_models_pass_and_nothing_else_is_drawn(shape, way, checkpointing, seed, rows, chunk):
    asked = {"checkpointing": checkpointing, "seed": seed, "rows_a_pass": rows, "chunk": chunk}
    policy, _ = tiny(shape, *way, **asked)
    after = torch.get_rng_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "_must_score_as_it_samples", lambda policy: None)
        tiny(shape, *way, **asked)
    assert torch.equal(after, torch.get_rng_state())
    assert not policy.training and all(p.grad is None for p in policy.parameters())


def test_the_check_takes_five_short_passes(monkeypatch):
    read = []
    monkeypatch.setattr(load, "_must_score_as_it_samples", lambda policy: None)
    policy, _ = tiny()
    monkeypatch.undo()
    policy.get_decoder().register_forward_pre_hook(
        lambda module, arguments, named: read.append(named["input_ids"].numel()), with_kwargs=True
    )
    load._must_score_as_it_samples(policy)
    assert read == [3, 1, 1, 5, 5]


@pytest.mark.parametrize(
    "arguments, word",
    [
        ({"model": "llama-3.2-1b"}, "without weights"),
        ({"model": SHAPES["llama"]}, "without weights"),
        ({"model": "no/such/folder", "random_weights": True}, "no/such/folder"),
        ({"model": "./runs/nope", "device": "cpu"}, "./runs/nope: there is no such folder"),
        ({"model": "../nope", "device": "cpu"}, "no such folder"),
        ({"model": "/no/such", "device": "cpu"}, "no such folder"),
        ({"model": "x", "method": "dora"}, "dora"),
        ({"model": "x", "dtype": "int8"}, "int8"),
        ({"model": "x", "rank": 0}, "rank"),
        ({"model": "x", "rows_a_pass": 0}, "rows_a_pass"),
        ({"model": "x", "device": "cuda"}, "no GPU"),
    ],
    ids=str,
)
def test_what_cannot_be_loaded_is_refused_in_one_line(monkeypatch, arguments, word):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=word) as caught:
        load_large(**arguments)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["{", "[]", "{}", "\xff"])
def test_the_folder_of_a_damaged_adapter_is_one_line(tmp_path, text):
    (tmp_path / "adapter_config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="adapter_config.json is missing or broken"):
        large.model_config(tmp_path)


@pytest.mark.parametrize("package", ["peft", "bitsandbytes", "accelerate"])
def test_missing_packages_are_named_with_the_cure(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"pip install {package}"):
        load_large("x", "qlora")
    if package == "bitsandbytes":
        with pytest.raises(InputError, match="pip install bitsandbytes"):
            adamw8bit([torch.nn.Parameter(torch.zeros(1))], 1e-3)


def test_a_tokenizer_without_eos_is_refused(tmp_path):
    policy, tokenizer = tiny(method="full")
    tokenizer.eos_token = None
    save_policy(policy, tokenizer, tmp_path)
    with pytest.raises(InputError, match="EOS"):
        load_large(tmp_path, "full", device="cpu")


@pytest.mark.parametrize(
    "line, word",
    [("--method lora", "--method belongs"), ("--random-weights", "--random-weights"), ("--model x --policy y", "both")],
)
def test_flags_that_do_not_go_together_are_refused(line, word):
    parser = argparse.ArgumentParser()
    parser.add_argument("--policy")
    model_flags(parser)
    with pytest.raises(InputError, match=word):
        chosen_model(parser.parse_args(line.split()))


@pytest.mark.parametrize(
    "change", [{"logits_scaling": 8.0}, {"logit_scale": 0.06}, {"final_logit_softcapping": 30.0}], ids=str
)
def test_a_model_that_changes_its_logits_afterwards_is_refused(change):
    config = copy.deepcopy(SHAPES["llama"])
    for name, value in change.items():
        setattr(config, name, value)
    with pytest.raises(InputError, match="changes its logits"):
        load_large(config, "full", "float32", "cpu", random_weights=True)


def test_dropout_is_off_in_training_too_for_sampling_knows_none():
    config = copy.deepcopy(SHAPES["llama"])
    config.attention_dropout = 0.5
    policy, tokenizer = load_large(config, "lora", "float32", "cpu", random_weights=True)
    rollouts = sample(policy, tokenizer, PROMPTS, 4, 12)
    torch.testing.assert_close(score(policy.train(), rollouts), rollouts.old_logprobs, rtol=0, atol=2e-5)


def test_an_adapter_is_not_trained_whole(tmp_path):
    save_policy(*tiny(method="full"), tmp_path / "base")
    save_policy(*load_large(tmp_path / "base", "lora", "float32", "cpu"), tmp_path / "adapter")
    with pytest.raises(InputError, match="is an adapter"):
        load_large(tmp_path / "adapter", "full", "float32", "cpu")
