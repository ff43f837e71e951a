"""The real path: any causal language model of the Hub, whole or with an adapter, for a card of 16 GB.

What it gives passes through the same sampler, the same loop and the same four algorithms as the toy. Needs peft for
an adapter, bitsandbytes for 4-bit weights and 8-bit Adam, and accelerate to load: ``pip install 'grpo-teach[large]'``.
"""

from __future__ import annotations

import gc
import logging
import sys
from pathlib import Path

import torch
import transformers
from torch import nn

from grpo_teach.errors import InputError, TrainingDiverged, needed
from grpo_teach.large.options import NEEDS, Options, place
from grpo_teach.large.shapes import SHAPES, loaded, model_config, random_model, stand_in_tokenizer
from grpo_teach.learner import adamw
from grpo_teach.policy import adapted_layers
from grpo_teach.rollout import sample_ids
from grpo_teach.score import score

logging.getLogger("bitsandbytes.backends.cpu").setLevel(logging.ERROR)  # of a faster kernel that it can do without

# The most that log-probs of the same tokens may differ, in nats.
SAME = {torch.float32: 1e-4, torch.float16: 1e-3, torch.bfloat16: 1e-3}
ROUNDED = {torch.float32: 1e-2, torch.float16: 0.1, torch.bfloat16: 0.5}

__all__ = ["OPTIMIZERS", "adamw8bit", "free_memory", "load_large", "load_large_tokenizer", "nf4"]


def load_large(
    model: str | Path | transformers.PreTrainedConfig,
    method: str = Options.method,
    dtype: str = Options.dtype,
    device: str | torch.device = Options.device,
    rank: int = Options.rank,
    rows_a_pass: int = Options.rows_a_pass,
    chunk: int = Options.chunk,
    checkpointing: bool = Options.checkpointing,
    random_weights: bool = Options.random_weights,
    alpha: int = Options.alpha,
    share_prompts: bool = Options.share_prompts,
    targets: tuple[str, ...] = Options.targets,
    seed: int = 0,
):
    """Load a causal language model to be trained whole or through an adapter.

    ``"full"`` trains all weights in ``dtype``. ``"lora"`` freezes them and trains beside each linear layer but the
    output ``W x + (alpha / rank) B A x`` with ``A`` [rank, in] and ``B`` [out, rank] in float32, ``B`` starting at 0.
    ``"qlora"`` also stores the frozen matrices in 4 bits: NF4 with double quantisation, 0.516 bytes a weight.

    Args:
        model: a name on the Hub, a folder (a saved adapter's too), a name in ``SHAPES`` or a config.
        method: ``"full"``, ``"lora"`` or ``"qlora"``.
        dtype: of the frozen weights and the arithmetic. ``"auto"`` is bfloat16, or float16 on a card without it.
        device: ``"auto"`` is a GPU if there is one.
        rank: of the adapter.
        rows_a_pass: rows scored in one forward pass. More are faster and take more memory.
        chunk: tokens whose logits exist at one time while a pass is scored.
        checkpointing: recompute activations in the backward pass, layer by layer and pass by pass.
        random_weights: take the shape alone, with weights drawn anew, and the tokenizer of
            :func:`grpo_teach.large.stand_in_tokenizer`: no download, the true bytes and seconds, text without sense.
        alpha: the adapter's scale; 0 for twice the rank.
        share_prompts: score a prompt once for its whole group (:class:`grpo_teach.large.shared.SharedPrompts`).
        targets: names of the layers that get an adapter, or ``("all-linear",)``.
        seed: of the adapter and of random weights.
    Returns:
        ``(policy, tokenizer)``, the policy in evaluation mode. It is the plain model of transformers, with peft's
        layers inside: ``save_pretrained`` writes the adapter alone, as ``PeftModel.from_pretrained`` reads it.
    Raises:
        InputError: if a package, the GPU, the network, the model or its tokenizer's EOS is missing.
    Source: LoRA (arXiv 2106.09685) Eq. (3); QLoRA (arXiv 2305.14314) Eq. (5).
    """
    kind = device if device == "auto" else torch.device(device).type
    scored = {"rows_a_pass": rows_a_pass, "chunk": chunk, "share_prompts": share_prompts}
    adapter = {"rank": rank, "alpha": alpha, "targets": targets}
    how = {"checkpointing": checkpointing, "random_weights": random_weights}
    options = Options(method, dtype, kind, **scored, **adapter, **how)
    for package in NEEDS[method]:
        needed(package)
    device, dtype = place(device, dtype, method)
    free_memory()
    quantization = nf4(dtype) if method == "qlora" else None
    tokenizer = load_large_tokenizer(model, options.random_weights)
    torch.manual_seed(seed)
    if options.random_weights:
        policy = random_model(model_config(model), dtype, device, quantization)
    else:
        asked = {"dtype": dtype, "device_map": {"": device}, "attn_implementation": "sdpa"}
        policy = loaded(transformers.AutoModelForCausalLM, model, quantization_config=quantization, **asked)
    for module in policy.modules():
        # On a CPU with AVX512-BF16, bitsandbytes would repack a layer in evaluation mode for good: other weights from
        # then on, and no gradient through them.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    _must_be_plain(policy, method)
    if method != "full":
        if not adapted_layers(policy):  # the folder of a saved adapter brings base and adapter
            _add_adapter(policy, options)
        for name, parameter in policy.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
                parameter.requires_grad_(True)
        if hasattr(policy.get_output_embeddings(), "lora_A"):
            raise InputError("scoring reads the output matrix itself and would miss an adapter beside it")
    if options.checkpointing:
        # Renamed since transformers 5.15.
        enable = getattr(policy, "activation_checkpointing_enable", None) or policy.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if share_prompts and "linear_attention" in (getattr(policy.config, "layer_types", None) or ()):
        raise InputError(f"share_prompts: the linear attention of {policy.config.model_type} keeps no state to share")
    policy.scoring = options.scoring
    _must_score_as_it_samples(policy.eval())
    return policy, tokenizer


def _add_adapter(policy: nn.Module, options: Options) -> None:
    """Beside the layers that the options name; peft's ``all-linear`` is a word, not a list."""
    targets = options.targets[0] if options.targets == Options.targets else list(options.targets)
    sizes = {"r": options.rank, "lora_alpha": options.alpha or 2 * options.rank}
    try:
        policy.add_adapter(needed("peft").LoraConfig(task_type="CAUSAL_LM", target_modules=targets, **sizes))
    except ValueError as error:  # no layer has such a name
        raise InputError(f"no adapter can be put beside {' '.join(options.targets)}: {error}") from error


def _must_be_plain(policy: nn.Module, method: str) -> None:
    """Scoring takes logits as ``weight @ hidden``, and must see what the sampler saw."""
    name, head = policy.config.model_type, policy.get_output_embeddings()
    rescaled = [
        getattr(policy.config, key, None) for key in ("final_logit_softcapping", "logit_scale", "logits_scaling")
    ]
    if any(value not in (None, 1) for value in rescaled) or getattr(head, "bias", None) is not None:
        raise InputError(f"{name} changes its logits after the output matrix, which scoring here does not")
    if method == "full" and adapted_layers(policy):
        raise InputError("this is an adapter: choose the method lora or qlora, or merge it into its base first")
    for part in policy.modules():  # sampled without dropout, scored without
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        if isinstance(getattr(part, "attention_dropout", None), float):
            part.attention_dropout = 0.0


@torch.no_grad()
def _must_score_as_it_samples(policy: nn.Module) -> None:
    """Sample three tokens, and score them twice: dropout that is no module shows only in what a model does.

    Two scorings are the same sums, a draw apart. Sampling makes them in another order and rounds its logits.
    """
    with torch.random.fork_rng():
        ids = torch.arange(2, 5, device=policy.device).remainder(policy.config.vocab_size).unsqueeze(0)
        try:
            rollouts = sample_ids(policy, ids, torch.ones_like(ids), 1, 3, 1.0, ends=[], pad=0)
        except TrainingDiverged as error:
            cure = ": it overflows in float16; take float32" if policy.dtype == torch.float16 else ""
            raise InputError(f"{policy.config.model_type} gives no finite log-probs{cure}") from error
        found = {"sampled": rollouts.old_logprobs, "scored": score(policy, rollouts)}
        found["scored in training mode"] = score(policy.train(), rollouts)
        policy.eval()
    for a, b, most in (("scored", "scored in training mode", SAME), ("sampled", "scored", ROUNDED)):
        apart = float((found[a] - found[b]).abs().max())
        if not apart <= most[policy.dtype]:
            what = f"{policy.config.model_type}: its log-probs {a} and {b} differ by {apart:.2g} nats"
            if most is SAME or policy.dtype == torch.float32:
                raise InputError(f"{what}, so it cannot be trained here; is there dropout left in it?")
            print(f"warning: {what}: more than the rounding of 16 bits makes as a rule", file=sys.stderr)


def free_memory() -> None:
    """Let go of models that nothing refers to but they themselves, and of what CUDA's allocator holds in store."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def load_large_tokenizer(model: str | Path | transformers.PreTrainedConfig, random_weights: bool = False):
    """The tokenizer that :func:`load_large` gives with a model. Without a token to pad with it pads with its EOS.

    Raises:
        InputError: if there is none, or it has no EOS.
    """
    if random_weights:
        return stand_in_tokenizer(model_config(model).vocab_size)
    if isinstance(model, transformers.PreTrainedConfig) or model in SHAPES:
        name = getattr(model, "model_type", model)
        raise InputError(f"{name} is a shape without weights: ask for random weights, or name a model on the Hub")
    tokenizer = loaded(transformers.AutoTokenizer, model, padding_side="left")
    if tokenizer.eos_token is None:
        raise InputError(f"the tokenizer of {model} has no EOS token, so no completion could end")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # masks are made from lengths, so it will do
    return tokenizer


def nf4(dtype: torch.dtype) -> transformers.BitsAndBytesConfig:
    """How ``"qlora"`` stores the frozen matrices; ``dtype`` is the arithmetic's."""
    double = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    return transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=dtype, **double)


def adamw8bit(parameters, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW of bitsandbytes: two states of 8 bits a parameter, and of 32 bits for tensors of less than 4,096.

    Source: Dettmers et al. (arXiv 2110.02861).
    """
    return needed("bitsandbytes").optim.AdamW8bit(parameters, lr=learning_rate, weight_decay=0.0)


OPTIMIZERS = {"adamw": adamw, "adamw8bit": adamw8bit}
