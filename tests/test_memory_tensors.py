"""The byte ledger against tensors that exist: weights, gradients, moments, caches, and what autograd keeps."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, Qwen2Config

from grpo_teach import Rollouts, Scoring, sample, score, token_logprobs
from grpo_teach.memory import Setup, Shape, predict
from grpo_teach.memory.measure import Live, storages
from grpo_teach.policy import Critic, Models
from grpo_teach.rollout import score_with_values

SMALL = {
    "llama": LlamaConfig(
        vocab_size=90,
        hidden_size=64,
        intermediate_size=224,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "wide vocabulary": LlamaConfig(
        vocab_size=3000,
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "llama untied": LlamaConfig(
        vocab_size=70,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=3,
        num_key_value_heads=3,
        tie_word_embeddings=False,
    ),
    "qwen2": Qwen2Config(
        vocab_size=110,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    ),
}


def small_setup(name, **different):
    """One batch of 2 rows of 6 + 7 tokens, read in one pass: 12 of them, for the last predicts nothing."""
    sizes = {"prompts": 1, "group_size": 2, "prompt_tokens": 6, "max_new_tokens": 7, "rank": 16}
    return Setup(**{"model": Shape.of(SMALL[name])} | sizes | different)


def value(name, setup):
    return predict(setup).lines[name].value


def built(name, method="full", dtype="float32"):
    """The model itself, in training mode; with a LoRA adapter of rank 16 if the method is one."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(SMALL[name], dtype=getattr(torch, dtype))
    if method == "lora":
        peft = pytest.importorskip("peft")
        model.add_adapter(peft.LoraConfig(r=16, target_modules="all-linear"))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return model.train()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("method, dtype", [("full", "float32"), ("full", "bfloat16"), ("lora", "bfloat16")])
def test_weights_gradients_moments_and_cache_are_those_of_real_tensors(name, method, dtype):
    model = built(name, method, dtype)
    lines = predict(small_setup(name, method=method, dtype=dtype, optimizer="adamw", padded=False)).lines
    assert lines["weights"].value == storages(model.parameters())
    ids = torch.arange(24).reshape(2, 12)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=ids, past_key_values=cache)
    assert lines["kv_cache"].value == storages([t for layer in cache.layers for t in (layer.keys, layer.values)])
    model(input_ids=ids).logits.float().logsumexp(-1).sum().backward()
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert lines["gradients"].value == storages([parameter.grad for parameter in learning])
    optimizer = torch.optim.AdamW(learning)
    optimizer.step()
    moments = [state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert lines["optimizer"].value == storages(moments)


@pytest.mark.parametrize("name", SMALL)
def test_critics_and_reward_model_are_those_of_real_modules(name):
    model = built(name)
    full = {"algorithm": "ppo", "method": "full", "dtype": "float32"}
    for kind, real in (("head", "shared"), ("separate", "separate")):
        critic = Critic(model, real)
        plain = predict(small_setup(name, method="full", dtype="float32", optimizer="adamw"))
        with_critic = predict(small_setup(name, critic=kind, optimizer="adamw", **full))
        bytes = storages(critic.parameters())
        assert with_critic.lines["critic"].value == bytes
        for term, each in (("weights", 0), ("gradients", 1), ("optimizer", 2)):
            assert with_critic.lines[term].value - plain.lines[term].value == each * bytes
    assert value("reward_model", small_setup(name, method="full", dtype="float32", reward_model="same")) == bytes


def test_nf4_is_what_bitsandbytes_stores():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    shape = replace(Shape.of(SMALL["llama"]), matrices=((300, 700), (70, 33)), others=(11,), output=0)
    stored = 0
    for rows, columns in shape.matrices:
        layer = bitsandbytes.nn.Linear4bit(columns, rows, bias=False, quant_type="nf4", compress_statistics=True)
        weight = layer.to("cpu").weight
        state = weight.quant_state
        parts = [weight, state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
        stored += sum(part.numel() * part.element_size() for part in parts)
    assert value("reference", small_setup("llama", model=shape, reference="copy")) == stored + 2 * 11


def test_8_bit_adam_keeps_small_tensors_exact():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    sizes = (4095, 4096, 5000)
    tensors = [torch.nn.Parameter(torch.zeros(size)) for size in sizes]
    optimizer = bitsandbytes.optim.AdamW8bit(tensors)
    for tensor in tensors:
        tensor.grad = torch.ones_like(tensor)
    optimizer.step()
    names = ("state1", "state2", "absmax1", "absmax2")
    states = [state[name] for state in optimizer.state.values() for name in names if name in state]
    shape = replace(Shape.of(SMALL["llama"]), matrices=(), others=sizes, output=0)
    assert value("optimizer", small_setup("llama", model=shape, method="full", dtype="float32")) == storages(states)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("method, dtype", [(m, d) for m in ("full", "lora") for d in ("float32", "bfloat16")])
@pytest.mark.parametrize("name", SMALL)
def test_what_autograd_keeps_is_within_1_percent_of_what_is_predicted(name, method, dtype, padded):
    model, kept = built(name, method, dtype), []
    ids, mask = torch.arange(24).reshape(2, 12), torch.ones(2, 12, dtype=torch.long)
    mask[0, :3] = 0 if padded else 1
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        hidden = model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    own = {parameter.data_ptr() for parameter in model.parameters()}
    measured = storages([tensor for tensor in (*kept, hidden) if tensor.untyped_storage().data_ptr() not in own])
    expected = value("waiting", small_setup(name, method=method, dtype=dtype, padded=padded, checkpointing=False))
    if method == "lora":  # the first layer reads what needs no gradient, so its norm keeps nothing
        expected -= 24 * (4 * model.config.hidden_size + 4)
    assert measured == pytest.approx(expected, rel=0.01)


def transient(setup, phase, *terms):
    """The most bytes in a phase of some terms, and of what does not stay."""
    moments = predict(setup).moments.items()
    terms = (*terms, "activations", "logits", "kv_cache")
    return max(sum(alive.get(term, 0) for term in terms) for (at, _), alive in moments if at == phase)


@pytest.mark.parametrize("prompt_tokens, max_new_tokens", [(300, 1), (4, 200), (4, 4)])
def test_sampling_at_its_fullest(tokenizer, prompt_tokens, max_new_tokens):
    # The prompts, the cache and the logits in turn take the most.
    model, tokenizer = built("wide vocabulary"), copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"eos_token": "<never>"})
    tokenizer.eos_token = "<never>"
    with Live(model.parameters()) as live:
        sample(model, tokenizer, ["1" * prompt_tokens, "2" * prompt_tokens], 4, max_new_tokens)
    sizes = {"prompts": 2, "group_size": 4, "prompt_tokens": prompt_tokens, "max_new_tokens": max_new_tokens}
    expected = transient(small_setup("wide vocabulary", method="full", dtype="float32", **sizes), "sampling")
    assert 0.75 * expected < live.most < 1.1 * expected


def rollouts(rows, prompt_tokens, completion_tokens):
    """Rows of different texts, of which every other one is left-padded."""
    prompt_ids = torch.arange(rows * prompt_tokens).reshape(rows, prompt_tokens) % 60
    completion_ids = torch.arange(rows * completion_tokens).reshape(rows, completion_tokens) % 59
    prompt_mask = torch.ones_like(prompt_ids)
    prompt_mask[::2, :3] = 0
    ones = torch.ones(completion_ids.shape)
    return Rollouts(prompt_ids, prompt_mask, completion_ids, ones, torch.zeros_like(ones))


@pytest.mark.parametrize("name, completion", [("llama", 50), ("wide vocabulary", 50)])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_scoring_at_its_fullest(method, name, completion):
    model = built(name, method)
    model.scoring = Scoring(rows_a_pass=4, chunk=10**6)
    with Live(model.parameters()) as live, torch.no_grad():
        score(model, rollouts(8, 30, completion))
    sizes = {"prompts": 2, "group_size": 4, "prompt_tokens": 30, "max_new_tokens": completion, "rows_a_pass": 4}
    sizes |= {"algorithm": "ppo", "critic": "head", "reference": "copy"}  # whose log-probs a KL term reads
    expected = transient(small_setup(name, method=method, dtype="float32", **sizes), "scoring")
    assert 0.65 * expected < live.most < 1.1 * expected  # inside logsumexp one more copy is made, which is not seen


@pytest.mark.parametrize("method, dtype", [(m, d) for m in ("full", "lora") for d in ("float32", "bfloat16")])
@pytest.mark.parametrize(
    "name, tokens, rows_a_pass",
    [("llama", 40, 1), ("llama", 40, 4), ("llama", 40, 8)]
    + [("qwen2", 40, 2), ("qwen2", 40, 8), ("wide vocabulary", 2, 1), ("wide vocabulary", 30, 8)],
)
def test_an_update_of_recomputed_passes_at_its_fullest(name, tokens, method, dtype, rows_a_pass):
    model, batch = built(name, method, dtype), rollouts(8, tokens, tokens + 1)
    # The first is transformers' newer name.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    with Live(model.parameters()) as live:
        passes = [batch[rows] for rows in torch.arange(8).split(rows_a_pass)]
        sum(checkpoint(score, model, part, use_reentrant=False).sum() for part in passes).backward()
    sizes = {"prompts": 2, "group_size": 4, "prompt_tokens": tokens, "max_new_tokens": tokens + 1}
    setup = small_setup(name, method=method, dtype=dtype, rows_a_pass=rows_a_pass, chunk=8 * tokens + 8, **sizes)
    expected = transient(setup, "update", "weights", "gradients")
    assert live.most + storages(model.parameters()) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("critic", ["none", "head", "separate"])
@pytest.mark.parametrize("rows_a_pass", [2, 8])
@pytest.mark.parametrize("name", ["llama", "llama untied"])
def test_an_update_without_checkpointing_at_its_fullest(name, rows_a_pass, critic):
    model = built(name)
    model.scoring = Scoring(rows_a_pass, chunk=10**6)
    kind = None if critic == "none" else critic
    models = Models.build(model, kind)
    with Live(models.trainable().parameters()) as live:
        for _ in range(2):  # the second time the first one's gradients stay until the backward begins
            logprobs, values = (
                score_with_values(model, models.critic, rollouts(8, 20, 41))
                if kind
                else (score(model, rollouts(8, 20, 41)), torch.zeros(1))
            )
            models.trainable().zero_grad()
            (logprobs.sum() + values.sum()).backward()
    sizes = {"prompts": 2, "group_size": 4, "prompt_tokens": 20, "max_new_tokens": 41, "rows_a_pass": rows_a_pass}
    algorithm = {"algorithm": "ppo" if kind else "grpo", "critic": critic, "method": "full", "dtype": "float32"}
    setup = small_setup(name, checkpointing=False, chunk=8 * 41, **sizes, **algorithm)
    expected = transient(setup, "update", "weights", "critic", "gradients")
    assert live.most + storages(models.trainable().parameters()) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_alive_four_times_in_float32(dtype):
    hidden, matrix = torch.randn(32, 8, dtype=dtype, requires_grad=True), torch.randn(2000, 8, dtype=dtype)
    with Live([matrix]) as live:
        token_logprobs((hidden @ matrix.T)[None], torch.arange(32)[None]).sum().backward()
    assert live.most == pytest.approx(16 * 32 * 2000, rel=0.02)
    assert value("logits", small_setup("llama", max_new_tokens=100, chunk=32)) == 16 * 32 * 90
