"""Models by their shape alone: configs that ship, a tokenizer of bytes, and random weights of any shape."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn

from grpo_teach.errors import InputError
from grpo_teach.large.smollm2 import NAME, unpacked
from grpo_teach.policy import BASES

__all__ = ["SHAPES", "base_of", "loaded", "local", "model_config", "random_model", "stand_in_tokenizer"]

SHAPES = {folder.name: folder for folder in sorted((BASES / "configs").iterdir())}
HINTS = {  # a word of the Hub's message, and what helps
    "gated": "ask for access on the model's page, then log in with `hf auth login`",
    "Couldn't instantiate the backend tokenizer": "the folder holds no tokenizer that can be read",
    "couldn't connect": "no network? give the folder of a model, or a shape that ships, as llama-3.2-1b",
}


def model_config(name: str | Path | transformers.PreTrainedConfig) -> transformers.PreTrainedConfig:
    """The config of a model: one in ``SHAPES``, a folder's, one from the Hub, or of a saved adapter its base's.

    A config is its own.

    Raises:
        InputError: if there is none to be had.
    """
    if isinstance(name, transformers.PreTrainedConfig):
        return name
    if (Path(name) / "adapter_config.json").exists():
        name = base_of(name) or name
    return loaded(transformers.AutoConfig, SHAPES.get(str(name), name))


def base_of(adapter: str | Path) -> str | None:
    """The name of an adapter's base; None or empty for one beside random weights.

    Raises:
        InputError: if the folder holds no adapter.
    """
    try:
        return json.loads((Path(adapter) / "adapter_config.json").read_text("utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{adapter} is no folder of an adapter: adapter_config.json is missing or broken") from error


def local(name: str | Path) -> str | Path:
    """A folder's absolute path, so that an adapter saved beside its model finds it from anywhere; or a Hub's name.

    Raises:
        InputError: if there is no such folder, and it is a ``Path`` or can be no name on the Hub.
    """
    if Path(name).exists():
        return Path(name).absolute()
    if isinstance(name, Path) or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name):
        raise InputError(f"cannot load {name}: there is no such folder")
    return name


def loaded(kind, name, *before, **options):
    """``kind.from_pretrained(*before, name, **options)``, whose many kinds of failure end in one line.

    The name ``smollm2`` stands for :func:`grpo_teach.large.smollm2.unpacked`.

    Raises:
        InputError: for any of them.
    """
    name, hub = unpacked() if name == NAME else local(name), logging.getLogger("huggingface_hub")
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


def stand_in_tokenizer(vocabulary: int) -> transformers.PreTrainedTokenizerFast:
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
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=chat, **special)


def random_model(config, dtype: torch.dtype, device: str, quantization: transformers.BitsAndBytesConfig | None):
    """A model of the shape, its weights drawn and quantised layer by layer: never two copies, nor a wider one."""
    with torch.device("meta"):
        policy = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
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
