"""A policy that lives in a page: it samples there, shows what it nearly said, and GRPO trains it, in plain JavaScript."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy
from torch import Tensor

from grpo_teach.policy import load_base
from grpo_teach.records import load_record

__all__ = ["BASE", "PARTS", "kit", "packed", "panel", "script"]

BASE = "chain_sum_64"  # of the shipped bases the smallest that GRPO teaches: 132,480 weights
PAGE = Path(__file__).parent / "page"
PARTS = ("Policy", "logSoftmax", "score", "randomFrom", "reward", "sample", "advantages", "gradientOf", "Adam")
PARTS += ("drawProblem", "trainStep")  # what the page's own code offers


def packed(policy, tokenizer) -> dict:
    """A tiny Llama's shape and its weights in 16 bits, as ``page/panel.js`` unpacks them.

    Each weight matrix is rounded to whole numbers from -32767 to 32767 times a scale of its own: finer than float16,
    which has 11 bits.

    Args:
        policy: a ``LlamaForCausalLM`` with tied embeddings, as many key heads as heads, and rotary base 10000.
        tokenizer: its tokenizer.
    Returns:
        ``shape`` (sizes, and each token's text), ``scales``, and ``data``: the whole numbers in base64.
    """
    of = policy.config
    words = {i: token for token, i in tokenizer.get_vocab().items()}
    shape = {"vocab": of.vocab_size, "width": of.hidden_size, "inner": of.intermediate_size, "eps": of.rms_norm_eps}
    shape |= {"layers": of.num_hidden_layers, "heads": of.num_attention_heads}
    shape["tokens"] = [words[i] for i in range(of.vocab_size)]
    whole, scales = zip(*(_rounded(w.detach()) for w in policy.parameters()), strict=True)
    data = base64.b64encode(numpy.concatenate(whole).astype("<i2").tobytes()).decode()
    return {"shape": shape, "scales": list(scales), "data": data}


def _rounded(weight: Tensor) -> tuple[numpy.ndarray, float]:
    scale = float(weight.abs().max()) / 32767
    return (weight.flatten() / scale).round().numpy(), scale


def kit() -> str:
    """JavaScript: a function that returns what ``policy.js`` and ``grpo.js`` define, by name."""
    code = "".join((PAGE / name).read_text(encoding="utf-8") for name in ("policy.js", "grpo.js"))
    return f"function () {{\n{code}\nreturn {{{', '.join(PARTS)}}};\n}}"


def script() -> str:
    """JavaScript that brings every :func:`panel` of a page to life: the base, and the recorded policy that it became."""
    record = load_record("page_policy")
    shipped = {"Before training": packed(*load_base(BASE)), f"After {len(record['history'])} steps": record["policy"]}
    code = (PAGE / "panel.js").read_text(encoding="utf-8")
    return code.replace("= KIT", f"= {kit()}").replace("= SHIPPED", f"= {json.dumps(shipped)}")


def panel(name: str = "page-policy") -> str:
    """HTML of the panel, with its style; :func:`script` stands elsewhere in the page.

    Args:
        name: of the HTML element; one a page.
    """
    html, css = ((PAGE / f"panel.{kind}").read_text(encoding="utf-8") for kind in ("html", "css"))
    return f"<style>\n{css}</style>\n{html.replace('ID', name)}"
