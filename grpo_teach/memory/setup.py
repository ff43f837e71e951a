"""What the byte ledger starts from: a model's shape and how it is trained, as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import transformers
from packaging.version import Version
from torch import nn

from grpo_teach.algorithms import ALGORITHMS
from grpo_teach.errors import InputError
from grpo_teach.evaluate import ROWS_A_CALL
from grpo_teach.large.options import NEEDS, Options, before_ampere
from grpo_teach.settings import Checked, Settings, setting

__all__ = ["MEASURED", "Setup", "Shape", "repeats_keys_to_sample", "symbols"]

MEASURED = ("llama", "qwen2")  # the builds, as transformers calls them, whose predictions a measurement has met

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@dataclass(frozen=True)
class Shape:
    """What the ledger needs to know of a model, as plain numbers.

    Attributes:
        matrices: (out, in) of each linear layer of the decoder.
        others: elements of each other tensor: embeddings, norms, biases.
        output: elements of an output matrix of its own; 0 where it is tied to the embeddings.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    matrices: tuple[tuple[int, int], ...]
    others: tuple[int, ...]
    output: int

    @classmethod
    def of(cls, config) -> Shape:
        """Build a config's model without memory, on the ``meta`` device, and read its tensors' sizes.

        Raises:
            InputError: if it is no decoder of Llama's build.
        """
        try:
            with torch.device("meta"):
                model = transformers.AutoModelForCausalLM.from_config(config)
            layers = model.get_decoder().layers
        except (AttributeError, ValueError) as error:
            raise InputError(f"the ledger knows decoders built as Llama's, not {config.model_type}") from error
        linear = {name: part.weight for name, part in layers.named_modules() if isinstance(part, nn.Linear)}
        if {name.split(".")[-1] for name in linear} != PROJECTIONS or len(linear) != 7 * len(layers):
            raise InputError(f"the ledger knows decoders built as Llama's, not {config.model_type}")
        embeddings, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        apart = {id(weight) for weight in (*linear.values(), output)} - {id(embeddings)}
        return cls(
            layers=len(layers),
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            vocab=config.vocab_size,
            matrices=tuple(tuple(weight.shape) for weight in linear.values()),
            others=tuple(tensor.numel() for tensor in model.parameters() if id(tensor) not in apart),
            output=0 if output is embeddings else output.numel(),
        )


@dataclass(frozen=True)
class Setup(Checked):
    """A model and how it is trained: all that the bytes depend on.

    Raises:
        InputError: for a size that cannot be, or parts that do not go together.
    """

    model: Shape
    algorithm: str = setting("grpo", "which", tuple(ALGORITHMS))
    method: str = setting(Options.method, "learn every weight, or adapters on 16-bit or 4-bit ones", tuple(NEEDS))
    critic: str = setting("none", "what predicts returns, for ppo", ("none", "head", "lora", "separate"))
    reference: str = setting("none", "frozen policy: the adapter off, or a copy", ("none", "adapter", "copy"))
    reward_model: str = setting("none", "a learned reward of the policy's size", ("none", "same"))
    dtype: str = setting("bfloat16", "of weights and activations", tuple(BYTES))
    optimizer: str = setting("adamw8bit", "moments as the weights, or in 8 bits", ("adamw", "adamw8bit"))
    prompts: int = setting(4, "prompts a batch, P")
    group_size: int = setting(8, "samples a prompt, G")
    prompt_tokens: int = setting(256, "longest prompt, tokens")
    max_new_tokens: int = setting(512, "longest completion, tokens")
    rows_a_pass: int = setting(Options.rows_a_pass, "rows in one forward and backward pass")
    rank: int = setting(Options.rank, "of the LoRA adapters")
    chunk: int = setting(Options.chunk, "tokens whose logits exist at one time")
    checkpointing: bool = setting(
        Options.checkpointing, "keep only the layers' inputs and run each layer again in the backward"
    )
    padded: bool = setting(True, "prompts of unequal length, so that attention needs a mask")
    evaluated: int = setting(0, "held-out problems an evaluation asks, 0 for none")

    @classmethod
    def of(
        cls,
        shape: Shape,
        algorithm: str,
        config: Settings,
        options: Options,
        optimizer: str,
        reference: bool,
        prompt_tokens: int,
        evaluated: int = 0,
    ) -> Setup:
        """A training run as the ledger sees it.

        Args:
            shape: of the model.
            algorithm: its name in ``ALGORITHMS``; ``config`` are its settings.
            options: the model's, with device and dtype chosen.
            optimizer: its name in ``OPTIMIZERS``.
            reference: is a frozen policy kept? Beside an adapter it is the adapter off.
            prompt_tokens: of the longest prompt, without padding.
            evaluated: problems that an evaluation asks.
        Raises:
            InputError: if the ledger does not know the algorithm or the optimizer.
        """
        column = before_ampere(options.device)  # of padding, which the sampler keeps there
        kept = "copy" if options.method == "full" else "adapter"
        return cls(
            shape,
            algorithm=algorithm,
            critic={None: "none", "detached": "head"}.get(config.critic, config.critic),  # it weighs the same
            reference=kept if reference else "none",
            optimizer=optimizer,
            prompt_tokens=prompt_tokens + column,
            padded=column or config.prompts > 1,
            evaluated=evaluated,
            **{name: getattr(config, name) for name in ("prompts", "group_size", "max_new_tokens")},
            **{n: getattr(options, n) for n in ("method", "dtype", "rows_a_pass", "rank", "chunk", "checkpointing")},
        )

    def __post_init__(self):
        super().__post_init__()
        if (ALGORITHMS[self.algorithm].Settings.critic is None) != (self.critic == "none"):
            raise InputError(f"ppo needs a critic and no other has one; got {self.algorithm} with critic {self.critic}")
        for name, value in (("critic", "lora"), ("reference", "adapter")):
            if self.method == "full" and getattr(self, name) == value:
                raise InputError(f"{name} {value} stands on frozen weights: choose method lora or qlora, not full")
        if self.group_size < ALGORITHMS[self.algorithm].Settings.smallest_group:
            raise InputError(f"group_size must be at least 2 for {self.algorithm}: one answer alone has no group")


def repeats_keys_to_sample() -> bool:
    """Does the installed transformers repeat masked keys and values for every head where one token is read too?

    From 5.23 on it packs the queries of a group instead (``pack_gqa`` in its ``integrations/sdpa_attention.py``).
    """
    return Version(transformers.__version__) < Version("5.23.0.dev0")


def symbols(setup: Setup) -> dict[str, tuple[str, int]]:
    """The symbols of the ledger's formulas: for each what it means, and its value."""
    m, rank, rows = setup.model, setup.rank, setup.prompts * setup.group_size
    matrices = [n * k for n, k in m.matrices]
    adapters = [size for n, k in m.matrices for size in (rank * k, rank * n)] if setup.method != "full" else []
    trunk = adapters or [*matrices, *m.others]
    policy = trunk + ([m.output] if m.output and not adapters else [])
    second = trunk if setup.critic in ("lora", "separate") else []
    trained = policy + second + ([m.hidden, 1] if setup.critic != "none" else [])
    in_dtype = 0 if adapters else sum(policy) + sum(second)
    large = [size for size in trained if size >= 4096]
    a_pass, tokens = min(setup.rows_a_pass, rows), setup.prompt_tokens + setup.max_new_tokens - 1
    first = a_pass if setup.checkpointing else rows
    later = a_pass if setup.checkpointing and rows > a_pass else first - a_pass
    asked = min(setup.evaluated, ROWS_A_CALL, 8 * setup.rows_a_pass)  # as grpo_teach.evaluate.answers does
    evaluation = {"E": ("rows that an evaluation samples at once, a prompt each", asked)} if asked else {}
    return {
        "b": ("bytes of a number in the dtype", BYTES[setup.dtype]),
        "P": ("prompts a batch", setup.prompts),
        "B": ("rows a batch", rows),
        "S": ("prompt tokens a row", setup.prompt_tokens),
        "N": ("tokens a row that are read: the last predicts nothing", tokens),
        "n": ("tokens a pass", a_pass * tokens),
        "h": ("tokens whose activations wait as the backward begins", first * tokens),
        "j": ("tokens whose activations wait once the first pass has left its gradients", later * tokens),
        "C": ("completion tokens a pass", a_pass * setup.max_new_tokens),
        "c": ("tokens whose logits exist at one time", min(setup.chunk, a_pass * setup.max_new_tokens)),
        "V": ("vocabulary", m.vocab),
        "L": ("layers", m.layers),
        "D": ("width of the hidden state", m.hidden),
        "F": ("width inside the MLP", m.intermediate),
        "H": ("attention heads", m.heads),
        "d": ("width of a head", m.head_dim),
        "A": ("width of all queries", m.heads * m.head_dim),
        "K": ("width of all keys", m.kv_heads * m.head_dim),
        "M": ("columns of the attention mask, 0 without padding", tokens if setup.padded else 0),
        "r": ("rank of the adapters", rank),
        "W": ("weights of the model", sum(matrices) + sum(m.others) + m.output),
        "U": ("of them in an output matrix of its own", m.output),
        "Q": ("of them in the decoder's linear layers", sum(matrices)),
        "m": ("linear layers", len(matrices)),
        "q": ("blocks of 64 weights in them", sum(-(-size // 64) for size in matrices)),
        "g": ("groups of 256 blocks in them", sum(-(-size // 64 // 256) for size in matrices)),
        "a": ("weights of an adapter", sum(adapters)),
        "p": ("weights of the policy that learn", sum(policy)),
        "w": ("weights that learn in the dtype, the critic's too", in_dtype),
        "v": ("weights that learn in float32, the critic's too", sum(trained) - in_dtype),
        "e": ("learning weights in tensors of 4096 or more", sum(large)),
        "k": ("blocks of 256 in them", sum(-(-size // 256) for size in large)),
        "s": ("learning weights in smaller tensors", sum(trained) - sum(large)),
    } | evaluation
