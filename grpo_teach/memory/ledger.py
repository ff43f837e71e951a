"""The byte ledger: what fills the memory when a language model is trained, predicted before anything is loaded.

Every line is one formula over a few symbols; the text that is printed is the text that is computed. Counted are
tensors. Left out are the CUDA context (about 0.5 GiB, in no allocator's figure), what an allocator wastes, tensors of
[B, T], a thousandth of the rest, and a 4-bit matrix made whole for its product. What is assumed:

- Three phases, four where the run evaluates: *evaluation* samples rows of a prompt each, while the last gradients are
  still there. *Sampling* all rows at once with a KV cache; a group reads its prompt together. *Scoring* without
  gradient, where there is something to score: old values, reference, reward model. *Update*: forward and backward of
  a few rows at a time. With checkpointing nothing of a pass is kept until its backward, which runs it again; without,
  the activations of all passes wait.
- Weights, critic, reference, reward model and optimizer state always stay. Gradients stay from the first update on:
  ``zero_grad`` frees them only just before the next backward, so they are there while the forward runs.
- Attention by ``scaled_dot_product_attention``, whose flash and memory-efficient kernels (the CPU's too) make no [N, N]
  matrix of scores. Padded prompts need a mask, and with a mask keys and values are repeated for every head; where
  sampling reads one token at a time only by a transformers before 5.23.
- AdamW's two moments have the parameter's dtype. 8-bit AdamW (bitsandbytes) keeps a byte each and a float32 scale for
  256 of them; tensors under 4096 elements stay in float32.
- LoRA adapters, on all linear layers of the decoder, and the value head are float32; adapters read float32 copies of
  16-bit inputs. NF4 (bitsandbytes, double quantisation) holds those linear layers, the dtype all else.
- The critic is a value head on the policy's trunk, or has beside it an adapter of its own on the same frozen weights,
  or a trunk of its own (all but an output matrix) that learns by the policy's method.
- Decoders built as Llama's, which Qwen2's are.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection
from dataclasses import dataclass

from grpo_teach.errors import InputError
from grpo_teach.memory.setup import Setup, Shape, repeats_keys_to_sample, symbols

__all__ = ["Ledger", "Line", "Setup", "Shape", "changes", "nearest", "predict"]

STAYING = ("weights", "critic", "reference", "reward_model", "optimizer")
TERMS = (*STAYING[:4], "gradients", "optimizer", "activations", "logits", "kv_cache")
CHANGES = {  # those first that alter no number of the result
    "checkpointing": {"checkpointing": True},
    "one row a pass": {"rows_a_pass": 1},
    "logits of 64 tokens at a time": {"chunk": 64},
    "8-bit AdamW": {"optimizer": "adamw8bit"},
    "the adapter off as reference": {"reference": "adapter"},
    "no reference": {"reference": "none"},
    "a rule in place of the reward model": {"reward_model": "none"},
    "a value head as critic": {"critic": "head"},
    "16-bit numbers": {"dtype": "bfloat16"},
    "LoRA": {"method": "lora"},
    "QLoRA": {"method": "qlora"},
}


@dataclass(frozen=True)
class Line:
    """``formula`` gives ``value`` bytes; where ``meaning`` begins with "a token:", bytes a token."""

    formula: str
    meaning: str
    value: int


@dataclass(frozen=True)
class Ledger:
    """What :func:`predict` found.

    Attributes:
        symbols: what each symbol of the formulas means, and its value.
        lines: each formula by its name.
        moments: for each ``(phase, moment)`` the bytes of each term that is alive there.
        written: the same as formulas.
    """

    symbols: dict[str, tuple[str, int]]
    lines: dict[str, Line]
    moments: dict[tuple[str, str], dict[str, int]]
    written: dict[tuple[str, str], dict[str, str]]

    @property
    def phases(self) -> dict[str, int]:
        """The most bytes alive in each phase."""
        return {phase: size for size, (phase, _) in sorted((sum(m.values()), at) for at, m in self.moments.items())}

    @property
    def peak(self) -> tuple[str, str]:
        """The phase, and the moment in it, with the most bytes."""
        return max(self.moments, key=lambda at: sum(self.moments[at].values()))

    @property
    def terms(self) -> dict[str, int]:
        """Each term where it is largest, and ``total``, the peak: less than their sum, for they do not all meet."""
        most = {term: max(alive.get(term, 0) for alive in self.moments.values()) for term in TERMS}
        return most | {"total": sum(self.moments[self.peak].values())}

    def explain(self) -> str:
        """Every formula with its value and meaning, then the symbols."""
        rows = [f"{name} = {line.formula} = {line.value:,}\n    {line.meaning}" for name, line in self.lines.items()]
        return "\n".join([*rows, *(f"{name} = {value:,}: {text}" for name, (text, value) in self.symbols.items())])


@functools.cache
def _compiled(formula: str):
    return compile(formula, "ledger", "eval")


def _value(formula: str, known: dict[str, int]) -> int:
    return int(eval(_compiled(formula), {}, known))


def predict(setup: Setup) -> Ledger:
    """The bytes of each term, of each phase, and the peak.

    A moment's bytes are ``weights + critic + reference + reward_model + optimizer`` and: in *sampling* and *evaluation*
    gradients, KV cache, and a step's logits or a layer that reads the prompts; in *scoring* gradients, and a layer's
    work or a chunk's logits; in the *update* gradients as far as they have come, the activations that wait for the
    backward, and a chunk's logits or the layer at work.

    Args:
        setup: a model and how it is trained.
    Returns:
        The ledger, in bytes.
    """
    names, lines, moments, written = symbols(setup), {}, {}, {}
    known = {name: value for name, (_, value) in names.items()}
    full, wide, checkpointing = setup.method == "full", setup.dtype == "float32", setup.checkpointing

    def line(name: str, formula: str, meaning: str) -> None:
        known[name] = _value(formula, known)
        lines[name] = Line(formula, meaning, known[name])

    frozen = "Q / 2 + q + 4 * g + 1092 * m + b * (W - Q)" if setup.method == "qlora" else "b * W"
    weights = frozen if full else frozen + " + 4 * a"
    line("weights", weights, "the policy; of NF4 half a byte a weight, a scale a block and a group, tables a matrix")
    critics = {"none": "0", "head": "4 * (D + 1)", "lora": "4 * (a + D + 1)"}
    critics["separate"] = f"{weights} - b * U + 4 * (D + 1)"
    line("critic", critics[setup.critic], "a value head; with it nothing, an adapter, or a trunk")
    line("reference", frozen if setup.reference == "copy" else "0", "the frozen weights again; the adapter off is free")
    line("reward_model", "b * (W - U + D + 1)" if setup.reward_model == "same" else "0", "a frozen trunk and a head")
    line("gradients", "b * w + 4 * v", "one for each learning weight")
    exact = setup.optimizer == "adamw"
    line("optimizer", "2 * gradients" if exact else "2 * e + 8 * k + 8 * s", "two moments for each learning weight")
    line("kv_cache", "2 * L * K * b * B * N", "a key and a value in every layer for every token of every row")

    line("norms", "2 * (4 * D + 4" + (" + 2 * b * D)" if full else ")"), "a token: in a layer, two norms in float32")
    keys = "A" if setup.padded and setup.model.kv_heads > 1 else "K"
    attention = f"b * (2 * A + 2 * {keys} + M) + 4 * H"
    line("attention", attention, "a token: query, output, key, value, its row of the mask, a float32 sum a head")
    line("mlp", "4 * b * F" if full else "3 * b * F", "a token: gate, its activation, up; to learn down, its input")
    inputs = "2 * D + F" if wide else "5 * D + A + F"
    line("adapters", "0" if full else f"4 * ({inputs} + 7 * r)", "a token: float32 inputs of a layer's seven adapters")
    line("layer", "norms + attention + mlp + adapters", "a token: what autograd keeps of one layer")
    line("kept", "b * D * L" if checkpointing else "layer * L", "a token: every layer's input, or all that it keeps")
    line("shared", "2 * b * d + M", "a token: angles of its position and row of the mask, one for all layers")
    line("top", "4 * D + 4 + b * D" + (" + b * D" if full else ""), "a token: the last norm")
    local = "b * D" if full or wide else "(5 * b + 4) * D"  # the gradient that comes in, and its copies
    line("busy", f"layer + 2 * b * F + {local}" if checkpointing else "top + 2 * b * F", "a token: the layer at work")
    read = "b * (4 * D + 3 * F)" if full else "b * (4 * D + 2 * F) + 8 * F" + ("" if wide else " + 4 * D")
    line("read", f"{read} + shared", "a token: the layer at work, without gradient")
    line("bare", "b * (4 * D + 3 * F) + shared", "a token: the same of a model without adapters")
    other = "(B * N - n) * " + ("shared" if full else "2 * b * D") if checkpointing else "0"
    line("left", other, "of every other pass, what torch's checkpoint keeps: an input without gradient, a mask")
    line("waiting", "h * (kept + shared + top) + left", "what waits for the backward")
    line("activations", "h * (kept + shared) + n * busy + left", "what waits for the backward, and the layer at work")
    line("logits", "16 * V * c", "four float32 copies of a chunk: logits, softmax, and what their gradient needs")

    def moment(phase: str, name: str, gradients: str = "gradients", **formulas: str) -> None:
        written[phase, name] = {term: term for term in STAYING} | {"gradients": gradients} | formulas
        moments[phase, name] = {term: _value(text, known) for term, text in written[phase, name].items()}

    # Where keys and values are not repeated, the most is a layer's keys as they are copied to grow.
    repeated = setup.padded and setup.model.heads > setup.model.kv_heads > 1 and repeats_keys_to_sample()
    # In float32 the rows' logits, over temperature, exponentials and probabilities; the branches' in the dtype.
    copies = "20" if wide else "(16 + b)"  # float32 needs one more: a row's logits are then a copy of its branch's
    for phase, asked, rows in (("sampling", "P", "B"), ("evaluation", "E", "E"))[: 1 + ("E" in known)]:
        reading = {"kv_cache": f"2 * L * K * b * {asked} * S", "activations": f"{asked} * S * read"}
        moment(phase, "reading the prompts", **reading)
        cache = "kv_cache" if rows == "B" else f"2 * L * K * b * {rows} * N"
        work = f"{'2 * A' if repeated else 'K'} * b * {rows} * N"
        # The last step's logits and probabilities are still there.
        moment(phase, "the last token, a layer", kv_cache=cache, activations=work, logits=f"(4 + b) * V * {rows}")
        moment(phase, "the last token, its logits", kv_cache=cache, logits=f"{copies} * V * {rows}")
    if setup.reference != "none":  # a critic's values need no logits
        moment("scoring", "a chunk of logits", activations="n * b * D", logits="12 * V * c")
    if setup.critic != "none" or setup.reference != "none" or setup.reward_model != "none":
        moment("scoring", "a layer", activations="n * bare" if setup.critic == "none" else "n * read")
    passes, waiting = -(-known["B"] * known["N"] // known["n"]), "(kept + shared + top)"
    second = setup.critic in ("lora", "separate")  # its trunk runs after the policy's, and back before it
    # What the step before has left in the gradients goes only when this step's backward begins.
    all_wait = f"{'(2 * h - n)' if second else 'h'} * {waiting} + left"
    waits = "left" if checkpointing and passes > 1 else all_wait
    moment("update", "the forward, a chunk of logits", activations=waits, logits="12 * V * c")
    if checkpointing:
        moment("update", "the forward, a layer", activations=f"{waits} + n * read")
    elif second:
        moment("update", "the forward, the critic's trunk", activations=f"2 * h * {waiting}")
    # A gradient of the output matrix or the embeddings is added in place to what has come before, but for the second
    # one: the first is a view, and their sum a new tensor.
    chunked, tied = known["c"] < known["C"], not known["U"]
    begun = "gradients - b * p + b * V * D" if full else "gradients - 4 * p"
    for when, tokens, gradients in (("first", "h", begun), ("later", "j", "gradients")):
        waits = f"{tokens} * {waiting} + left"
        works = f"{tokens} * (kept + shared) + n * busy + left"
        if second:
            none_yet = "0" if when == "first" else gradients
            moment("update", f"{when} pass, the critic's trunk", none_yet, activations=f"{waits} + {works}")
            waits = f"2 * ({waits}) - n * {waiting}"
        if known[tokens]:
            moment("update", f"{when} pass, a chunk of logits", gradients, activations=waits, logits="logits")
            if full and (when == "later" or chunked):
                more = "" if when == "later" and (chunked or tied) else "2 * "
                sums = {"activations": f"{waits} + {more}b * V * D", "logits": "0" if more else "b * V * c"}
                moment("update", f"{when} pass, the output matrix", gradients, **sums)
        moment("update", f"{when} pass, a layer", gradients, activations=works)
    if full and (passes > 1 or tied):
        waits, more = "left" if checkpointing else f"j * {waiting}", "2 * " if tied and not chunked else ""
        moment("update", "the embeddings", activations=f"{waits} + {more}b * V * D + n * b * D")
    return Ledger(names, lines, moments, written)


def changes(setup: Setup, without: Collection[str] = ()) -> dict[str, Setup]:
    """The single changes that save bytes, those first that alter no number of the result; ``without`` some of them."""
    halves = {"half the group": {"group_size": setup.group_size // 2}}
    halves["half the completion"] = {"max_new_tokens": setup.max_new_tokens // 2}
    found, total = {}, predict(setup).terms["total"]
    for name, change in (CHANGES | halves).items():
        if name in without:
            continue
        if "method" in change and setup.reference == "copy":  # an adapter turned off is a reference for nothing
            change = change | {"reference": "adapter"}
        try:
            changed = dataclasses.replace(setup, **change)
        except InputError:  # not with the rest of this set-up
            continue
        if predict(changed).terms["total"] < total:
            found[name] = changed
    return found


def nearest(setup: Setup, limit: int, without: Collection[str] = ()) -> tuple[list[str], Setup] | None:
    """The nearest set-up that fits: the first single change that is enough, or several on one another.

    Args:
        setup: what was wanted.
        limit: bytes.
        without: names of changes that will not do.
    Returns:
        The changes' names, and the set-up; None if nothing fits.
    """
    made = []
    while predict(setup).terms["total"] > limit:
        found = changes(setup, without)
        if not found:
            return None
        name = next((x for x in found if predict(found[x]).terms["total"] <= limit), next(iter(found)))
        made, setup = [*made, name], found[name]
    return made, setup
