"""A policy that lives in a page: plain JavaScript samples from it, shows what it nearly said, and trains it by GRPO."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import torch

from grpo_teach.policy import load_base
from grpo_teach.records import load_record

__all__ = ["BASE", "PARTS", "kit", "packed", "panel", "script"]

BASE = "chain_sum_64"  # of the shipped bases the smallest that GRPO teaches: 132,480 weights
PAGE = Path(__file__).parent / "policy_js"
SOURCES = ("arrays.js", "policy.js", "grpo.js")
PARTS = (
    "product",
    "Policy",
    "logSoftmax",
    "score",
    "randomFrom",
    "reward",
    "sample",
    "advantages",
    "gradientOf",
    "Adam",
)
PARTS += ("drawProblem", "trainStep")  # what the page's own code offers


def packed(policy, tokenizer) -> dict:
    """A tiny Llama's shape and its weights in 16 bits, as ``policy_js/panel.js`` unpacks them.

    All weights in one row are cut into blocks as long as the model is wide, and each block is rounded to whole numbers
    from -32767 to 32767 times a scale of its own: finer than float16, which has 11 bits.

    Args:
        policy: a ``LlamaForCausalLM`` with tied embeddings, as many key heads as heads, and rotary base 10000.
        tokenizer: its tokenizer.
    Returns:
        ``shape`` (sizes, and each token's text), ``scales``, one a block, and ``data``: the whole numbers in base64.
    """
    of = policy.config
    words = {i: token for token, i in tokenizer.get_vocab().items()}
    shape = {"vocab": of.vocab_size, "width": of.hidden_size, "inner": of.intermediate_size, "eps": of.rms_norm_eps}
    shape |= {"layers": of.num_hidden_layers, "heads": of.num_attention_heads}
    shape["tokens"] = [words[i] for i in range(of.vocab_size)]
    blocks = torch.cat([weight.detach().flatten() for weight in policy.parameters()]).reshape(-1, of.hidden_size)
    scales = [float(f"{scale:.7g}") for scale in (blocks.abs().amax(dim=1) / 32767).tolist()]
    whole = (blocks / torch.tensor(scales).unsqueeze(1)).round().clamp(-32767, 32767)
    return {"shape": shape, "scales": scales, "data": base64.b64encode(whole.numpy().astype("<i2")).decode()}


def kit() -> str:
    """JavaScript: a function that returns what :data:`SOURCES` define, by name."""
    code = "".join((PAGE / name).read_text(encoding="utf-8") for name in SOURCES)
    return f"function () {{\n{code}\nreturn {{{', '.join(PARTS)}}};\n}}"


def script() -> str:
    """JavaScript that brings a page's :func:`panel` to life, with the base and the recorded policy that it became."""
    run = load_record("page_policy")["runs"][0]
    shipped = {"Before training": packed(*load_base(BASE)), f"After {len(run['history'])} steps": run["policy"]}
    code = (PAGE / "panel.js").read_text(encoding="utf-8")
    return code.replace("= KIT", f"= {kit()}").replace("= SHIPPED", f"= {json.dumps(shipped)}")


def panel(name: str = "page-policy") -> str:
    """HTML of the panel, with its style; :func:`script` stands elsewhere in the page.

    Args:
        name: of the HTML element; one a page.
    """
    html, css = ((PAGE / f"panel.{kind}").read_text(encoding="utf-8") for kind in ("html", "css"))
    return f"<style>\n{css}</style>\n{html.replace('ID', name)}"
