"""Set-ups by the dozen, each predicted and measured: the evidence for the byte ledger.

``python -m grpo_teach memory --grid small`` takes some minutes of a CPU: tiny shapes of three builds, in which the
weights, the activations, the logits and the cache fill the most in turn. ``--grid 1b`` wants a GPU: every algorithm
and critic with every method, at the true shape of Llama-3.2-1B. ``--grid 1b_short`` is most of it with two short texts,
so that a CPU can do it: what stays is there at its true size, and little comes and goes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

from transformers import LlamaConfig, Qwen2Config

from grpo_teach import records
from grpo_teach.errors import InputError
from grpo_teach.large import model_config
from grpo_teach.memory import Setup, Shape, predict
from grpo_teach.memory_measure import measure_apart

__all__ = ["GRIDS", "beside", "config_of", "plain", "record", "setup_in"]

TINY = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "vocab_size": 4096}
TINY |= {"num_attention_heads": 8, "num_key_value_heads": 2}
CONFIGS = {
    "llama-tied": LlamaConfig(**TINY, tie_word_embeddings=True),
    "llama-untied": LlamaConfig(
        **TINY | {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 6, "num_key_value_heads": 6},
        tie_word_embeddings=False,
    ),
    "qwen2-like": Qwen2Config(
        **TINY | {"hidden_size": 320, "intermediate_size": 1280, "num_hidden_layers": 3, "vocab_size": 8192},
        tie_word_embeddings=True,
    ),
}
FULL = {"method": "full", "dtype": "float32", "optimizer": "adamw"}
FULL16 = {"method": "full"}  # 16-bit weights and 8-bit moments, as by default
LORA = {"method": "lora", "optimizer": "adamw"}
QLORA = {"method": "qlora"}
NO_CHECKPOINTING = {"checkpointing": False}
SMALL = {"prompts": 2, "group_size": 4, "prompt_tokens": 48, "max_new_tokens": 32, "rows_a_pass": 4, "chunk": 64}
LONG_PROMPTS = {"prompts": 16, "group_size": 2, "prompt_tokens": 256, "max_new_tokens": 4, "rows_a_pass": 1}
MANY_ROWS = {"prompts": 8, "group_size": 8, "prompt_tokens": 16, "max_new_tokens": 48, "rows_a_pass": 2}


def ppo(critic: str) -> dict:
    return {"algorithm": "ppo", "critic": critic}


SMALL_GRID = [
    ("llama-tied", FULL),
    ("llama-tied", FULL | NO_CHECKPOINTING),
    ("llama-tied", FULL | LONG_PROMPTS),
    ("llama-tied", FULL | MANY_ROWS),
    ("llama-tied", FULL16 | {"reference": "copy", "reward_model": "same"}),
    ("llama-tied", FULL16 | ppo("separate") | {"reference": "copy"}),
    ("llama-tied", LORA | {"algorithm": "sft"}),
    ("llama-tied", LORA | NO_CHECKPOINTING | {"algorithm": "policy_gradient", "padded": False}),
    ("llama-tied", QLORA | {"reference": "adapter"}),
    ("llama-tied", QLORA | MANY_ROWS | {"algorithm": "policy_gradient"}),
    ("llama-tied", QLORA | ppo("head") | {"reference": "adapter"}),
    ("llama-untied", FULL | {"algorithm": "sft", "padded": False}),
    ("llama-untied", FULL | ppo("head") | {"chunk": 16}),
    ("llama-untied", FULL | ppo("separate")),
    ("llama-untied", FULL16 | NO_CHECKPOINTING | ppo("separate")),
    ("llama-untied", LORA | ppo("lora")),
    ("llama-untied", LORA | ppo("separate") | {"rank": 4, "optimizer": "adamw8bit"}),
    ("llama-untied", LORA | LONG_PROMPTS),
    ("llama-untied", QLORA | ppo("separate") | {"reference": "adapter"}),
    ("llama-untied", QLORA | {"reference": "copy", "reward_model": "same"}),
    ("qwen2-like", FULL | {"algorithm": "sft", "rows_a_pass": 8}),
    ("qwen2-like", FULL | MANY_ROWS | {"algorithm": "policy_gradient"}),
    ("qwen2-like", FULL16 | ppo("head") | {"max_new_tokens": 96, "chunk": 256}),
    ("qwen2-like", LORA | {"dtype": "float32", "algorithm": "policy_gradient", "chunk": 4096}),
    ("qwen2-like", LORA | ppo("lora") | {"reference": "adapter"}),
    ("qwen2-like", LORA | NO_CHECKPOINTING | {"group_size": 8}),
    ("qwen2-like", QLORA | NO_CHECKPOINTING | ppo("lora")),
    ("qwen2-like", QLORA | {"algorithm": "sft", "rank": 64}),
]
FOUR_MODELS = {"reference": "copy", "reward_model": "same"}
LEARNERS = [{"algorithm": "sft"}, {"algorithm": "policy_gradient"}, {"algorithm": "grpo"}]
LEARNERS += [ppo("head"), ppo("lora"), ppo("separate")]
LARGE_GRID = [
    ("llama-3.2-1b", {"method": method} | learner)
    for method in ("full", "lora", "qlora")
    for learner in LEARNERS
    if (method, learner.get("critic")) != ("full", "lora")  # there is no adapter to give to the critic
]
LARGE_GRID += [("llama-3.2-1b", FULL16 | FOUR_MODELS | learner) for learner in (LEARNERS[2], LEARNERS[5])]
SHORT = {"prompts": 1, "group_size": 2, "prompt_tokens": 32, "max_new_tokens": 8, "rows_a_pass": 1}
SHORT_GRID = [  # SFT, policy gradient and a value head once; the four models want 24 GiB
    (model, different | SHORT)
    for model, different in LARGE_GRID[:-2]
    if different["method"] == "full"
    or different["algorithm"] == "grpo"
    or different.get("critic") in ("lora", "separate")
]
GRIDS = {"small": SMALL_GRID, "1b": LARGE_GRID, "1b_short": SHORT_GRID}


def config_of(model: str):
    """The config of a shape in a grid, or of any model."""
    return CONFIGS.get(model) or model_config(model)


@functools.cache
def shape_of(model: str) -> Shape:
    return Shape.of(config_of(model))


def setup_in(model: str, different: dict) -> Setup:
    """One set-up of a grid: beside what it names, a tiny shape has the sizes of ``SMALL``."""
    return Setup(shape_of(model), **(SMALL if model in CONFIGS else {}) | different)


def plain(setup: Setup) -> dict:
    """A set-up without its model, as JSON can hold it."""
    return {name: value for name, value in vars(setup).items() if name != "model"}


def beside(setup: Setup, measured: dict) -> dict:
    """Prediction and measurement, term by term and phase by phase, in bytes.

    Args:
        setup: what was run.
        measured: what :func:`grpo_teach.memory_measure.measure` returned for it.
    Returns:
        ``predicted_bytes`` and ``peak_phase``; ``measured_bytes``, None where memory ran out; ``phases``, of both;
        ``measured_peak_phase``; ``difference``, how far the predicted total is above the measured one, as a share
        of it; and the rest of ``measured``.
    """
    ledger, measured = predict(setup), dict(measured)
    bytes, phases = measured.pop("bytes", None), measured.pop("phases", {})
    found = {"predicted_bytes": ledger.terms, "peak_phase": ledger.peak[0], "measured_bytes": bytes}
    found["phases"] = {"predicted": ledger.phases, "measured": phases}
    if bytes:
        found["measured_peak_phase"] = max(phases, key=phases.get)
        found["difference"] = ledger.terms["total"] / bytes["total"] - 1
    return found | measured


def record(
    name: str,
    out: Path | None,
    device: str = "auto",
    cap: int | None = None,
    watch: Callable[[dict], None] = lambda row: None,
) -> dict:
    """Predict and measure what is missing of a grid.

    Args:
        name: in ``GRIDS``.
        out: the record's file, written after every measurement and gone on with if it is there; None for none.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.
        cap: bytes the GPU's allocator may take. A record holds rows of several caps.
        watch: is given each row.
    Returns:
        The record: ``manifest`` and ``runs``, one row a set-up.
    Raises:
        InputError: if the file was made on another device or with other versions.
    """
    about = records.manifest({"grid": name}, [0])
    rows = []
    if out and out.exists():
        held = json.loads(out.read_text(encoding="utf-8"))
        differing = sorted(key for key in about.keys() - {"commit"} if held["manifest"].get(key) != about[key])
        if differing:
            raise InputError(f"{out} was made with another {', '.join(differing)}: move it away to record anew")
        rows, about = held["runs"], held["manifest"]
    done = [(row["model"], row["setup"], row["cap"]) for row in rows]
    for model, different in GRIDS[name]:
        setup = setup_in(model, different)
        if (model, plain(setup), cap) not in done:
            label = ", ".join(f"{key} {value}" for key, value in different.items())
            row = {"seed": 0, "model": model, "label": label, "setup": plain(setup), "cap": cap}
            rows.append(row | beside(setup, measure_apart(config_of(model), setup, device, cap)))
            if out:
                records.write_json(out, {"manifest": about, "runs": rows}, indent=None)
        watch(next(row for row in rows if (row["model"], row["setup"], row["cap"]) == (model, plain(setup), cap)))
    return {"manifest": about, "runs": rows}
