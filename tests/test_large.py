"""Large models by their path, on tiny shapes: loading, sharing one base, and saving."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, Qwen2Config

from grpo_teach import InputError, large, sample, score
from grpo_teach.large import load_large
from grpo_teach.policy import Critic, Models, frozen_copy, load_policy, save_policy

pytest.importorskip("accelerate")
pytest.importorskip("bitsandbytes")
pytest.importorskip("peft")

SHAPE = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.15}  # far from uniform
SHAPES = {
    "llama": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "qwen": Qwen2Config(**SHAPE, tie_word_embeddings=False),  # with biases
}
PROMPTS = ["1+2=", "how many are there? "]
LARGE = pytest.mark.parametrize("shape", SHAPES)


def tiny(shape="llama", method="lora", dtype="float32", **options):
    return load_large(SHAPES[shape], method, dtype, "cpu", random_weights=True, **options)


def waken(policy):
    """An adapter starts as nothing; make it something."""
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    return policy


def storages(*modules):
    """Bytes by address of everything the modules hold, 4-bit weights' scales included."""
    found = {}
    for module in modules:
        tensors = [*module.parameters(), *module.buffers()]
        for part in module.modules():
            if getattr(part, "quant_state", None) is not None:
                state = part.weight.quant_state
                tensors += [state.absmax, state.offset, state.state2.absmax, state.state2.code, state.code]
        found |= {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return found


# Loading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, parameters", [("llama-3.2-1b", 1_235_814_400), ("qwen2.5-1.5b", 1_543_714_304)])
def test_the_shipped_shapes_are_the_published_ones(name, parameters):
    with torch.device("meta"):
        policy = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(large.SHAPES[name]))
    assert sum(p.numel() for p in policy.parameters()) == parameters


@LARGE
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_random_weights_are_what_transformers_itself_would_load(tmp_path, shape, method):
    save_policy(*tiny(shape, "full"), tmp_path)
    loaded, tokenizer = load_large(str(tmp_path), method, "float32", "cpu")
    drawn, _ = tiny(shape, method)
    ids = tokenizer(PROMPTS[1], return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(loaded(**ids).logits, drawn(**ids).logits)
    assert tokenizer.padding_side == "left"


@LARGE
@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_only_the_adapter_learns_and_in_float32(shape, method, dtype):
    policy, _ = tiny(shape, method, dtype, rank=3)
    learning = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    assert policy.dtype == getattr(torch, dtype)
    assert {p.dtype for p in learning.values()} == {torch.float32}
    assert len(learning) == 2 * 7 * 2 and all("lora_" in name for name in learning)  # A and B, 7 matrices, 2 layers
    assert sum(p.numel() for p in learning.values()) == 2 * 3 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 256))


def test_four_bits_take_about_half_a_byte_a_weight():
    policy, _ = tiny(method="qlora", dtype="bfloat16")
    four_bit = [part for part in policy.modules() if getattr(part, "quant_state", None) is not None]
    assert len(four_bit) == 14 and policy.get_output_embeddings() not in four_bit
    weights = sum(part.in_features * part.out_features for part in four_bit)
    assert sum(part.weight.nbytes for part in four_bit) == weights / 2
    assert {part.weight.quant_type for part in four_bit} == {"nf4"}
    assert all(part.weight.quant_state.nested for part in four_bit)


# What is the largest difference between sampling's log-probs and scoring's, in nats?
PRECISION = {"float32": 2e-5, "bfloat16": 0.1, "float16": 0.02}


@LARGE
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("dtype", PRECISION)
def test_sampled_logprobs_equal_scored_ones(shape, method, dtype):
    if (method, dtype) == ("full", "float16"):
        return
    policy, tokenizer = tiny(shape, method, dtype)
    rollouts = sample(waken(policy), tokenizer, PROMPTS, group_size=4, max_new_tokens=12)
    assert rollouts.old_logprobs.dtype == torch.float32 and rollouts.old_logprobs.std() > 0.5
    torch.testing.assert_close(score(policy, rollouts), rollouts.old_logprobs, rtol=0, atol=PRECISION[dtype])


def test_an_adapter_changes_what_is_sampled_and_dropping_it_gives_the_base_back():
    policy, tokenizer = tiny(method="qlora")
    rollouts = sample(policy, tokenizer, PROMPTS, 4, 6)
    models, base = Models.build(policy), score(policy, rollouts)
    assert torch.equal(base, score(models.reference, rollouts)), "an adapter starts as nothing"
    waken(policy)
    assert (score(policy, rollouts) - base).abs().mean() > 0.1
    assert torch.equal(base, score(models.reference, rollouts)), "the reference has none"
    assert not any("lora" in name for name, _ in models.reference.named_parameters())


# Sharing ----------------------------------------------------------------------------------------------------------


@LARGE
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_policy_reference_and_lora_critic_hold_one_base(shape, method):
    policy, _ = tiny(shape, method)
    models = Models.build(policy, "lora")
    adapter = sum(p.nbytes for p in policy.parameters() if p.requires_grad)
    alone = storages(policy)
    assert storages(models.reference).keys() <= alone.keys()
    together = storages(policy, models.reference, models.critic)
    assert sum(together.values()) - sum(alone.values()) == adapter + models.critic.head.weight.nbytes + 4
    own = [p for p in models.critic.parameters() if p.requires_grad]
    assert not {p.data_ptr() for p in own} & alone.keys()


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_separate_critic_holds_a_base_of_its_own(method):
    policy, _ = tiny(method=method)
    critic = Critic(policy, "separate")
    assert not storages(critic.trunk).keys() & storages(policy).keys()


def test_whole_models_share_nothing_and_have_no_lora_critic():
    policy, _ = tiny(method="full")
    models = Models.build(policy, "separate")
    assert not {p.data_ptr() for p in models.reference.parameters()} & {p.data_ptr() for p in policy.parameters()}
    with pytest.raises(InputError, match="adapter"):
        Critic(policy, "lora")


# Saving -----------------------------------------------------------------------------------------------------------


@LARGE
def test_a_saved_adapter_is_pefts_and_merges(tmp_path, shape):
    from peft import PeftModel

    policy, tokenizer = tiny(shape)
    save_policy(waken(policy), tokenizer, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    ids = tokenizer(PROMPTS[1], return_tensors="pt")
    with torch.no_grad():
        ours = policy(**ids).logits
        theirs = PeftModel.from_pretrained(tiny(shape, "full")[0], tmp_path).eval()
        torch.testing.assert_close(theirs(**ids).logits, ours, rtol=0, atol=1e-5)
        merged = theirs.merge_and_unload()
        torch.testing.assert_close(merged(**ids).logits, ours, rtol=0, atol=1e-3)
    merged.save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    with torch.no_grad():
        assert torch.equal(load_policy(tmp_path / "merged")[0](**ids).logits, merged(**ids).logits)


@LARGE
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_saved_adapter_is_taken_up_again_with_its_base(tmp_path, shape, method):
    save_policy(*tiny(shape, "full"), tmp_path / "base")
    policy, tokenizer = load_large(tmp_path / "base", method, "float32", "cpu")
    save_policy(waken(policy), tokenizer, tmp_path / "adapter")
    again, _ = load_large(tmp_path / "adapter", method, "float32", "cpu")
    ids = tokenizer(PROMPTS[1], return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(policy(**ids).logits, again(**ids).logits)
    mine, its = Models(policy).learnt(), Models(again).learnt()
    assert mine.keys() == its.keys() and all(torch.equal(mine[name], its[name]) for name in mine)
    assert storages(frozen_copy(again)).keys() <= storages(again).keys()
