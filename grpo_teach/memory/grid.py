"""Set-ups by the dozen, each predicted and measured: the evidence for the byte ledger.

``python -m grpo_teach memory --grid small`` takes some minutes of a CPU: tiny shapes of three builds, in which the
weights, the activations, the logits and the cache fill the most in turn. ``--grid 1b`` wants a GPU: every algorithm
and critic with every method, at the true shape of Llama-3.2-1B. ``--grid 1b_short`` is most of it with two short texts,
so that a CPU can do it: what stays is there at its true size, and little comes and goes.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Callable
from pathlib import Path

import transformers

from grpo_teach import records
from grpo_teach.large import model_config
from grpo_teach.memory.ledger import predict
from grpo_teach.memory.measure import measure_apart
from grpo_teach.memory.setup import Setup, Shape
from grpo_teach.studies.resume import resumed

__all__ = ["GRIDS", "TINY", "beside", "config_of", "plain", "record", "setup_in"]

_TABLE = tomllib.loads(Path(__file__).with_name("grid.toml").read_text(encoding="utf-8"))
TINY = _TABLE["shapes"]
NO_EVALUATION = ("evaluated", 0)  # records are older than this setting
COMMON = {name: grid["common"] for name, grid in _TABLE["grids"].items()}
GRIDS = {
    name: [(row.pop("model"), COMMON[name] | row) for row in grid["rows"]] for name, grid in _TABLE["grids"].items()
}


def config_of(model: str):
    """The config of a tiny shape that the small grid measures, or of any model."""
    return transformers.AutoConfig.for_model(**TINY[model]) if model in TINY else model_config(model)


@functools.cache
def shape_of(model: str) -> Shape:
    return Shape.of(config_of(model))


def setup_in(model: str, different: dict) -> Setup:
    """One set-up of a grid: beside what it names, a tiny shape has the sizes that the small grid has in common."""
    return Setup(shape_of(model), **(COMMON["small"] if model in TINY else {}) | different)


def plain(setup: Setup) -> dict:
    """A set-up without its model, as JSON can hold it; with ``evaluated`` only where the run evaluates."""
    return {name: value for name, value in vars(setup).items() if name != "model" and (name, value) != NO_EVALUATION}


def beside(setup: Setup, measured: dict) -> dict:
    """Prediction and measurement, term by term and phase by phase, in bytes.

    Args:
        setup: what was run.
        measured: what :func:`grpo_teach.memory.measure.measure` returned for it.
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
    about, rows = resumed(out, records.manifest({"grid": name}, [0]), [])
    done = [(row["model"], row["setup"], row["cap"]) for row in rows]
    for model, different in GRIDS[name]:
        setup = setup_in(model, different)
        if (model, plain(setup), cap) not in done:
            common = COMMON.get(name, {})
            label = ", ".join(f"{key} {value}" for key, value in different.items() if common.get(key) != value)
            row = {"seed": 0, "model": model, "label": label, "setup": plain(setup), "cap": cap}
            rows.append(row | beside(setup, measure_apart(config_of(model), setup, device, cap)))
            if out:
                records.write_json(out, {"manifest": about, "runs": rows}, indent=None)
        watch(next(row for row in rows if (row["model"], row["setup"], row["cap"]) == (model, plain(setup), cap)))
    return {"manifest": about, "runs": rows}
