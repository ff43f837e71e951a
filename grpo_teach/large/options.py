"""How a large model is loaded and scored: the one place where its defaults stand."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from grpo_teach.errors import InputError
from grpo_teach.large.shared import SharedPrompts
from grpo_teach.policy import adapted_layers
from grpo_teach.score import Scoring
from grpo_teach.settings import Checked, setting

__all__ = ["DTYPES", "NEEDS", "Options", "before_ampere", "place"]

NEEDS = {"full": ["accelerate"], "lora": ["accelerate", "peft"], "qlora": ["accelerate", "peft", "bitsandbytes"]}
DTYPES = ("auto", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Options(Checked):
    """What :func:`grpo_teach.large.load_large` is asked for, beside the model."""

    method: str = setting("qlora", "all weights, an adapter, or one beside 4-bit weights", tuple(NEEDS))
    dtype: str = setting("auto", "of weights; auto: bfloat16, or float16 where the card has none", DTYPES)
    device: str = setting("auto", "auto: a GPU if there is one", ("auto", "cpu", "cuda"))
    rank: int = setting(16, "of the adapter")
    rows_a_pass: int = setting(4, "rows scored at once: memory against speed")
    chunk: int = setting(256, "tokens whose logits exist at one time")
    checkpointing: bool = setting(True, "make activations again in the backward, layer by layer and pass by pass")
    random_weights: bool = setting(False, "the model's shape alone: no download, and no sense")
    alpha: int = setting(0, "of the adapter, which counts alpha / rank times; 0: twice the rank")
    share_prompts: bool = setting(False, "score a prompt once for its whole group; with --no-checkpointing only")
    targets: tuple = setting(("all-linear",), "layers with an adapter: all-linear, or names as q_proj v_proj")

    @classmethod
    def of(cls, policy) -> Options:
        """Those of a policy that is loaded, be it large or the toy."""
        adapted, scoring = adapted_layers(policy), Scoring.of(policy)
        four_bit = any(getattr(part, "quant_state", None) is not None for part in policy.modules())
        return cls(
            method="qlora" if four_bit else "lora" if adapted else "full",
            dtype=str(policy.dtype).removeprefix("torch."),
            device=policy.device.type,
            rank=policy.peft_config["default"].r if adapted else cls.rank,
            alpha=policy.peft_config["default"].lora_alpha if adapted else cls.alpha,
            rows_a_pass=scoring.rows_a_pass,
            chunk=scoring.tokens_at_once(policy.config.vocab_size),
            checkpointing=scoring.recompute,
            share_prompts=isinstance(scoring, SharedPrompts),
        )

    @property
    def scoring(self) -> Scoring:
        """What the policy will carry."""
        return (SharedPrompts if self.share_prompts else Scoring)(self.rows_a_pass, self.chunk, self.checkpointing)

    def __post_init__(self):
        super().__post_init__()
        if self.share_prompts and self.checkpointing:
            raise InputError("share_prompts needs a cache, which checkpointing gives up: choose one of the two")

    def placed(self) -> Options:
        """The same with a device and a dtype in place of ``"auto"``.

        Raises:
            InputError: if they cannot be had here.
        """
        device, dtype = place(self.device, self.dtype, self.method)
        return dataclasses.replace(self, device=device, dtype=str(dtype).removeprefix("torch."))


def place(
    device: str = Options.device, dtype: str = Options.dtype, method: str = Options.method
) -> tuple[str, torch.dtype]:
    """Device and dtype as :func:`load_large` chooses them.

    Raises:
        InputError: if they cannot be had here.
    """
    device = _device(device)
    return device, _dtype(dtype, device, method)


def before_ampere(device: str) -> bool:
    """Is it a card of compute capability below 8.0: without bfloat16, and without a kernel for grouped queries?"""
    return device == "cuda" and torch.cuda.get_device_capability() < (8, 0)


def _device(name: str) -> str:
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no GPU that torch can use: take another machine, or the device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def _dtype(name: str, device: str, method: str) -> torch.dtype:
    if name not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}; got {name!r}")
    # torch.cuda.is_bf16_supported() says yes on a T4 too, where bfloat16 is emulated and slow.
    if name == "auto":
        name = "float16" if before_ampere(device) else "bfloat16"
    if name == "bfloat16" and before_ampere(device):
        raise InputError(f"{torch.cuda.get_device_name()} has no bfloat16: take float16")
    if name == "float16" and method == "full":
        raise InputError("weights in float16 lose small steps: train an adapter beside them, or take float32")
    return getattr(torch, name)
