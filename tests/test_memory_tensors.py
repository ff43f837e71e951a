"""The byte ledger against tensors that exist: weights, gradients, moments, caches, and what autograd keeps."""

import weakref
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, Qwen2Config

from grpo_teach import token_logprobs
from grpo_teach.memory import Setup, Shape, predict
from grpo_teach.policy import Critic

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
    sizes = {"prompts": 1, "group_size": 2, "prompt_tokens": 6, "max_new_tokens": 7, "rank": 4}
    return Setup(**{"model": Shape.of(SMALL[name])} | sizes | different)


def value(name, setup):
    return predict(setup).lines[name].value


def built(name, method="full", dtype="float32"):
    """The model itself, in training mode; with a LoRA adapter of rank 4 if the method is one."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(SMALL[name], dtype=getattr(torch, dtype))
    if method == "lora":
        peft = pytest.importorskip("peft")
        model.add_adapter(peft.LoraConfig(r=4, target_modules="all-linear"))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return model.train()


def storages(tensors):
    """Bytes of the distinct storages under some tensors."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


class Live(TorchDispatchMode):
    """The most bytes alive at one time, of the storages that operations return; those of ``weights`` left out."""

    def __init__(self, weights):
        super().__init__()
        self.alive, self.now, self.most = {weight.untyped_storage()._cdata for weight in weights}, 0, 0

    def forget(self, key, size):
        self.alive.discard(key)
        self.now -= size

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        returned = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(returned):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage())._cdata not in self.alive:
                self.alive.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self.forget, storage._cdata, storage.nbytes())
        self.most = max(self.most, self.now)
        return returned


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
def test_what_autograd_keeps_is_within_5_percent_of_what_is_predicted(name, method, dtype, padded):
    model, kept = built(name, method, dtype), []
    ids, mask = torch.arange(24).reshape(2, 12), torch.ones(2, 12, dtype=torch.long)
    mask[0, :3] = 0 if padded else 1
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        hidden = model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    own = {parameter.data_ptr() for parameter in model.parameters()}
    measured = storages([tensor for tensor in (*kept, hidden) if tensor.untyped_storage().data_ptr() not in own])
    expected = value("waiting", small_setup(name, method=method, dtype=dtype, padded=padded, checkpointing=False))
    assert measured == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("method, dtype", [(m, d) for m in ("full", "lora") for d in ("float32", "bfloat16")])
def test_a_checkpointed_pass_at_its_fullest(method, dtype):
    model = built("llama", method, dtype)
    # The first is transformers' newer name.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    mask = torch.ones(4, 60, dtype=torch.long)
    mask[0, :9] = 0
    sizes = {"group_size": 4, "prompt_tokens": 30, "max_new_tokens": 31}
    known = predict(small_setup("llama", method=method, dtype=dtype, **sizes))
    with Live(model.parameters()) as live:
        hidden = model.get_decoder()(input_ids=torch.ones_like(mask), attention_mask=mask, use_cache=False)
        hidden.last_hidden_state.sum().backward()
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None) if method == "full" else 0
    assert live.most == pytest.approx(known.lines["activations"].value + gradients / 2, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_alive_four_times_in_float32(dtype):
    hidden, matrix = torch.randn(32, 8, dtype=dtype, requires_grad=True), torch.randn(2000, 8, dtype=dtype)
    with Live([matrix]) as live:
        token_logprobs((hidden @ matrix.T)[None], torch.arange(32)[None]).sum().backward()
    assert live.most == pytest.approx(16 * 32 * 2000, rel=0.02)
    assert value("logits", small_setup("llama", max_new_tokens=100, chunk=32)) == 16 * 32 * 90
