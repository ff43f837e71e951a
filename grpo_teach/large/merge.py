"""A trained adapter added into its base: one model, which transformers reads without peft."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from grpo_teach.errors import InputError, needed
from grpo_teach.large.folders import free_folder
from grpo_teach.large.load import load_large_tokenizer
from grpo_teach.large.options import DTYPES
from grpo_teach.large.shapes import base_of, loaded
from grpo_teach.policy import save_policy

__all__ = ["merge"]


def merge(adapter: str | Path, out: str | Path, dtype: str = "auto") -> tuple[str, str]:
    """Write ``W + 2 B A`` in place of each ``W``: a model that transformers reads without peft, and its tokenizer.

    The base is loaded whole, not in 4 bits. What was trained beside 4-bit weights so stands on slightly other ones
    afterwards, and 16-bit weights round the sum: the outputs change a little.

    Args:
        adapter: the folder that :func:`grpo_teach.policy.save_policy` wrote.
        out: the folder to write to.
        dtype: of the merged weights; ``"auto"`` as the base's are stored.
    Returns:
        ``(base, dtype)``: their names.
    Raises:
        InputError: if the folder holds no adapter, its base cannot be loaded (one of random weights never can), or
            ``out`` holds a model or a run.
    Source: LoRA (arXiv 2106.09685) section 4.1.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
    peft = needed("peft")
    base = base_of(adapter)
    if not base:
        raise InputError(f"the adapter in {adapter} stood beside random weights: there is no base to merge it with")
    out, tokenizer = free_folder(out, read=adapter), load_large_tokenizer(adapter)
    policy = loaded(transformers.AutoModelForCausalLM, base, dtype=dtype if dtype == "auto" else getattr(torch, dtype))
    merged = loaded(peft.PeftModel, str(adapter), policy).merge_and_unload()
    save_policy(merged, tokenizer, out)
    return base, str(merged.dtype).removeprefix("torch.")
