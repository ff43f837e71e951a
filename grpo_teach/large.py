"""The real path: any causal language model of the Hub, whole or with an adapter, for a card of 16 GB.

What it gives passes through the same sampler, the same loop and the same four algorithms as the toy. Needs peft for
an adapter, bitsandbytes for 4-bit weights and 8-bit Adam, and accelerate to load: ``pip install 'grpo-teach[large]'``.
"""

from __future__ import annotations

import gc
import logging
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from grpo_teach.errors import InputError, needed
from grpo_teach.policy import adapted_layers
from grpo_teach.train import adamw

logging.getLogger("bitsandbytes.backends.cpu").setLevel(logging.ERROR)  # of a faster kernel that it can do without

__all__ = ["DTYPES", "NEEDS", "SHAPES", "adamw8bit", "load_large", "load_large_tokenizer", "loaded", "model_config"]
__all__ += ["OPTIMIZERS", "free_memory", "nf4", "place", "stand_in_tokenizer"]

SHAPES = {folder.name: folder for folder in sorted((Path(__file__).parent / "data" / "configs").iterdir())}
NEEDS = {"full": ["accelerate"], "lora": ["accelerate", "peft"], "qlora": ["accelerate", "peft", "bitsandbytes"]}
DTYPES = ("auto", "float32", "float16", "bfloat16")
HINTS = {  # a word of the Hub's message, and what helps
    "gated": "ask for access on the model's page, then log in with `hf auth login`",
    "couldn't connect": "no network? give the folder of a model, or a shape that ships, as llama-3.2-1b",
}


def load_large(
    model: str | Path | PreTrainedConfig,
    method: str = "qlora",
    dtype: str = "auto",
    device: str = "auto",
    rank: int = 16,
    rows_a_pass: int = 4,
    chunk: int = 256,
    checkpointing: bool = True,
    random_weights: bool = False,
    seed: int = 0,
):
    """Load a causal language model to be trained whole or through an adapter.

    ``"full"`` trains all weights in ``dtype``. ``"lora"`` freezes them and trains beside each linear layer but the
    output ``W x + 2 B A x`` with ``A`` [rank, in] and ``B`` [out, rank] in float32, ``B`` starting at 0.
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
        random_weights: take the shape alone, with weights drawn anew, and :func:`stand_in_tokenizer`: no download,
            the true bytes and seconds, and text without sense.
        seed: of the adapter and of random weights.
    Returns:
        ``(policy, tokenizer)``, the policy in evaluation mode. It is the plain model of transformers, with peft's
        layers inside: ``save_pretrained`` writes the adapter alone, as ``PeftModel.from_pretrained`` reads it.
    Raises:
        InputError: if a package, the GPU, the network, the model or its tokenizer's EOS is missing.
    Source: LoRA (arXiv 2106.09685) Eq. (3); QLoRA (arXiv 2305.14314) Eq. (5).
    """
    if method not in NEEDS:
        raise InputError(f"method must be one of {', '.join(NEEDS)}; got {method!r}")
    if min(rank, rows_a_pass, chunk) < 1:
        raise InputError(f"rank, rows_a_pass and chunk must be at least 1, got {rank}, {rows_a_pass} and {chunk}")
    for package in NEEDS[method]:
        needed(package)
    device, dtype = place(device, dtype, method)
    free_memory()
    quantization = nf4(dtype) if method == "qlora" else None
    tokenizer = load_large_tokenizer(model, random_weights)
    torch.manual_seed(seed)
    if random_weights:
        config = model if isinstance(model, PreTrainedConfig) else model_config(model)
        policy = _random(config, dtype, device, quantization)
    else:
        options = {"dtype": dtype, "device_map": {"": device}, "attn_implementation": "sdpa"}
        policy = loaded(AutoModelForCausalLM, model, quantization_config=quantization, **options)
    for module in policy.modules():
        # On a CPU with AVX512-BF16, bitsandbytes would repack a layer in evaluation mode for good: other weights from
        # then on, and no gradient through them.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    _must_be_plain(policy, method)
    if method != "full":
        if not adapted_layers(policy):  # the folder of a saved adapter brings base and adapter
            policy.add_adapter(
                needed("peft").LoraConfig(
                    task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules="all-linear"
                )
            )
        for name, parameter in policy.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
                parameter.requires_grad_(True)
    if checkpointing:
        # Renamed since transformers 5.15.
        enable = getattr(policy, "activation_checkpointing_enable", None) or policy.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    policy.rows_a_pass, policy.chunk, policy.recompute_passes = rows_a_pass, chunk, checkpointing
    return policy.eval(), tokenizer


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


def free_memory() -> None:
    """Let go of models that nothing refers to but they themselves, and of what CUDA's allocator holds in store."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def load_large_tokenizer(model: str | Path | PreTrainedConfig, random_weights: bool = False):
    """The tokenizer that :func:`load_large` gives with a model. Without a token to pad with it pads with its EOS.

    Raises:
        InputError: if there is none, or it has no EOS.
    """
    if random_weights:
        return stand_in_tokenizer((model if isinstance(model, PreTrainedConfig) else model_config(model)).vocab_size)
    if isinstance(model, PreTrainedConfig) or model in SHAPES:
        name = getattr(model, "model_type", model)
        raise InputError(f"{name} is a shape without weights: ask for random weights, or name a model on the Hub")
    tokenizer = loaded(AutoTokenizer, model, padding_side="left")
    if tokenizer.eos_token is None:
        raise InputError(f"the tokenizer of {model} has no EOS token, so no completion could end")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # masks are made from lengths, so it will do
    return tokenizer


def place(device: str = "auto", dtype: str = "auto", method: str = "qlora") -> tuple[str, torch.dtype]:
    """Device and dtype as :func:`load_large` chooses them.

    Raises:
        InputError: if they cannot be had here.
    """
    device = _device(device)
    return device, _dtype(dtype, device, method)


def _device(name: str) -> str:
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no GPU that torch can use: take another machine, or the device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def _dtype(name: str, device: str, method: str) -> torch.dtype:
    if name not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}; got {name!r}")
    # torch.cuda.is_bf16_supported() says yes on a T4 too, where bfloat16 is emulated and slow.
    lacks_bf16 = device == "cuda" and torch.cuda.get_device_capability() < (8, 0)
    if name == "auto":
        name = "float16" if lacks_bf16 else "bfloat16"
    if name == "bfloat16" and lacks_bf16:
        raise InputError(f"{torch.cuda.get_device_name()} has no bfloat16: take float16")
    if name == "float16" and method == "full":
        raise InputError("weights in float16 lose small steps: train an adapter beside them, or take float32")
    return getattr(torch, name)


def nf4(dtype: torch.dtype) -> BitsAndBytesConfig:
    """How ``"qlora"`` stores the frozen matrices; ``dtype`` is the arithmetic's."""
    double = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=dtype, **double)


def model_config(name: str | Path) -> PreTrainedConfig:
    """The config of a model: one in ``SHAPES``, a folder's, or one from the Hub.

    Raises:
        InputError: if there is none to be had.
    """
    return loaded(AutoConfig, SHAPES.get(str(name), name))


def loaded(kind, name, *before, **options):
    """``kind.from_pretrained(*before, name, **options)``, whose many kinds of failure end in one line.

    Raises:
        InputError: for any of them.
    """
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)  # without network it would announce each of its attempts
    try:
        return kind.from_pretrained(*before, name, **options)
    except Exception as error:  # transformers, huggingface_hub, safetensors and json each raise their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        hints = [hint for word, hint in HINTS.items() if word in reason]
        raise InputError(": ".join([f"cannot load {name}", reason.rstrip(".:"), *hints])) from error
    finally:
        hub.setLevel(level)


def stand_in_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Bytes as tokens, for a model with random weights, which comes without a tokenizer.

    Its 258 ids are the first of the model's; no text has one above them, and such an id ``i`` is written ``[i]``.

    Args:
        vocabulary: the model's V.
    Raises:
        InputError: if V has no room for them.
    """
    bytes = ["<pad>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    if len(bytes) > vocabulary:
        raise InputError(f"random weights need a vocabulary of at least {len(bytes)}, for bytes; got {vocabulary}")
    ids = {token: i for i, token in enumerate([*bytes, *(f"[{i}]" for i in range(len(bytes), vocabulary))])}
    tokenizer = Tokenizer(models.BPE(ids, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    chat = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
    special = {"eos_token": "<eos>", "pad_token": "<pad>", "padding_side": "left"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=chat, **special)


def _random(config, dtype: torch.dtype, device: str, quantization: BitsAndBytesConfig | None):
    """A model of the shape, its weights drawn and quantised layer by layer: never two copies, nor a wider one."""
    with torch.device("meta"):
        policy = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    policy.name_or_path = ""  # these are not the weights that go by that name: a saved adapter must not claim so
    head = policy.get_output_embeddings()
    if quantization:
        from transformers.integrations import replace_with_bnb_linear

        names = [name for name, module in policy.named_modules() if module is head]
        policy = replace_with_bnb_linear(policy, names, quantization)
        policy.is_loaded_in_4bit = True  # peft asks
    for module in policy.modules():
        if hasattr(module, "quant_state"):
            shape, empty = (module.out_features, module.in_features), module.weight
            weight = torch.empty(shape, dtype=dtype, device=device).normal_(0, config.initializer_range)
            module.weight = type(empty)(weight, requires_grad=False, **vars(empty)).to(device)
            if module.bias is not None:
                module.bias = nn.Parameter(torch.zeros(shape[0], dtype=dtype, device=device), requires_grad=False)
        elif module is not head or not config.tie_word_embeddings:
            module.to_empty(device=device, recurse=False)
            policy._init_weights(module)
    policy.tie_weights()
    return policy


def adamw8bit(parameters, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW of bitsandbytes: two states of 8 bits a parameter, and of 32 bits for tensors of less than 4,096.

    Source: Dettmers et al. (arXiv 2110.02861).
    """
    return needed("bitsandbytes").optim.AdamW8bit(parameters, lr=learning_rate, weight_decay=0.0)


OPTIMIZERS = {"adamw": adamw, "adamw8bit": adamw8bit}
