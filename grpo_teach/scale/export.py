"""Our GRPO settings as arguments of TRL's ``GRPOConfig``: the same mathematics, on as many processes as you like."""

from __future__ import annotations

from grpo_teach.algorithms.grpo import GRPO
from grpo_teach.errors import InputError

__all__ = ["passes", "to_trl"]

LOSS = {"sequence_mean": "grpo", "token_mean": "dapo", "fixed_length": "dr_grpo"}
SCALE = {"std": "group", "batch": "batch", "none": "none"}


def passes(config: GRPO, processes: int = 1, rows_a_pass: int | None = None) -> tuple[int, int]:
    """How each optimizer step's rows are cut: ``(rows a pass, passes a step)`` of one process.

    ``prompts * group_size = rows * passes * processes * minibatches``, with the fewest passes that keep
    ``rows <= rows_a_pass``.

    Args:
        config: settings of GRPO.
        processes: that share each batch.
        rows_a_pass: most rows in one forward and backward pass of a process; None for no limit.
    Raises:
        InputError: if the rows cannot be shared out evenly.
    """
    rows, parts = config.prompts * config.group_size, processes * config.minibatches
    if rows % parts:
        raise InputError(
            f"TRL cuts a batch in equal parts: prompts * group_size = {rows} must be a multiple of "
            f"processes * minibatches = {parts}"
        )
    mine = rows // parts
    most = min(rows_a_pass or mine, mine)
    count = next(n for n in range(1, mine + 1) if mine % n == 0 and mine // n <= most)
    return mine // count, count


def to_trl(config: GRPO, batches: int, seed: int = 0, processes: int = 1, rows_a_pass: int | None = None) -> dict:
    """Keyword arguments of ``trl.GRPOConfig`` (1.16) under which ``GRPOTrainer`` takes the steps that ours takes.

    What TRL would do by default and this undoes: all tokens of a batch weigh the same (``loss_type="dapo"``), k3 is
    multiplied by the ratio (``use_bias_correction_kl``), the step size falls from 1e-6 to 0, the prompts are shuffled.
    Two differences are left. With several minibatches TRL shuffles the rows once a batch, each process its own, where
    ours shuffles them anew each epoch. And where all groups of a minibatch are equal, ours leaves the weights alone,
    while TRL's AdamW takes a step by its momentum.

    Args:
        config: settings of GRPO.
        batches: of ``prompts`` prompts each: our steps. TRL counts optimizer steps, ``epochs * minibatches`` a batch.
        seed: of sampling and shuffles.
        processes: that share each batch.
        rows_a_pass: most rows in one forward and backward pass of a process; None for no limit.
    Returns:
        A dict; add ``output_dir`` and what concerns the machine alone, such as ``use_cpu``, ``bf16``, ``use_vllm``.
    Raises:
        InputError: for settings of another algorithm, or what TRL cannot do.
    Source: the objective is DeepSeekMath (arXiv 2402.03300) Eq. (3), as :mod:`grpo_teach.algorithms.grpo` has it.
    """
    if not isinstance(config, GRPO):
        raise InputError(f"TRL's GRPOTrainer takes settings of GRPO, not of {type(config).__name__}")
    if config.ratio == "sequence":
        raise InputError(
            "ratio='sequence' is the product of a row's token ratios (R1); TRL's importance_sampling_level='sequence' "
            "is their geometric mean (GSPO): use ratio='token'"
        )
    if config.max_grad_norm == 0:
        raise InputError("max_grad_norm=0 lets nothing through here and everything in TRL: give a positive number")
    rows, count = passes(config, processes, rows_a_pass)
    if config.aggregation == "token_mean" and config.minibatches > 1 and processes * count > 1:
        raise InputError(
            "aggregation='token_mean' with several minibatches: over several processes or passes TRL divides each "
            "minibatch by the mean minibatch's tokens, not by its own; take minibatches=1, or one process and pass"
        )
    own_tokens = config.aggregation == "token_mean" and config.minibatches > 1  # what TRL calls "bnpo"
    steps = config.epochs * config.minibatches
    return {
        # the loss
        "loss_type": "bnpo" if own_tokens else LOSS[config.aggregation],
        "scale_rewards": SCALE[config.scale],
        "beta": config.beta,
        "use_bias_correction_kl": False,
        "epsilon": config.clip_low,
        "epsilon_high": config.clip_high,
        "delta": None,
        "importance_sampling_level": "token",
        "mask_truncated_completions": False,
        "top_entropy_quantile": 1.0,
        # sampling: from the whole distribution that is scored
        "num_generations": config.group_size,
        "max_completion_length": config.max_new_tokens,
        "temperature": config.temperature,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": None,
        "repetition_penalty": 1.0,
        # batches
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": count,
        "steps_per_generation": count * config.minibatches,
        "num_iterations": config.epochs,
        "max_steps": batches * steps,
        "shuffle_dataset": False,
        "seed": seed,
        # the optimizer
        "optim": "adamw_torch_fused",
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "max_grad_norm": config.max_grad_norm,
    }
