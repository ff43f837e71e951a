"""Our GRPO settings as a configuration of verl (0.9), for many GPUs. Read by verl's own classes, run by nobody here.

What is left that differs from ours: verl adds 1e-6 to the standard deviation where ours adds 1e-4, cuts a log-ratio at
20 nats and k3 at 10, and samples with another engine than it trains with.
"""

from __future__ import annotations

import json

from grpo_teach.algorithms.grpo import GRPO
from grpo_teach.errors import InputError

__all__ = ["overrides", "to_verl"]

LOSS = {"sequence_mean": "seq-mean-token-mean", "token_mean": "token-mean", "fixed_length": "seq-mean-token-sum-norm"}
NEVER = 1e9  # above exp(20), the largest ratio that verl computes: its dual clip never binds


def to_verl(
    config: GRPO, model: str, gpus: int = 8, nodes: int = 1, prompt_tokens: int = 512, rows_a_pass: int = 8
) -> dict:
    """The nested settings of ``verl.trainer.main_ppo`` under which it computes our loss.

    Args:
        config: settings of GRPO.
        model: a name on the Hub or a folder.
        gpus: of one node.
        nodes: machines.
        prompt_tokens: longest prompt, tokens.
        rows_a_pass: rows in one forward and backward pass of a GPU.
    Raises:
        InputError: for settings of another algorithm, or what verl cannot do.
    Source: verl 0.9.1, ``trainer/config`` and ``workers/config``; chapter 05 of the book for what they stand for.
    """
    if not isinstance(config, GRPO):
        raise InputError(f"this writes settings of GRPO, not of {type(config).__name__}")
    if config.ratio == "sequence":
        raise InputError("verl has the geometric mean of a row's ratios (gspo), not their product: use ratio='token'")
    if config.scale == "batch":
        raise InputError(
            "verl's GRPO divides by the group's standard deviation or by nothing: use scale='std' or 'none'"
        )
    if config.prompts % config.minibatches:
        raise InputError(
            f"verl cuts a batch between prompts: prompts={config.prompts} must be a multiple of minibatches"
        )
    actor = {
        "loss_agg_mode": LOSS[config.aggregation],
        "loss_scale_factor": config.max_new_tokens if config.aggregation == "fixed_length" else None,
        "clip_ratio_low": config.clip_low,
        "clip_ratio_high": config.clip_high,
        "clip_ratio_c": NEVER,
        "use_kl_loss": config.beta > 0,
        "kl_loss_coef": config.beta,
        "kl_loss_type": "low_var_kl",  # k3
        "entropy_coeff": 0,
        "ppo_epochs": config.epochs,
        "ppo_mini_batch_size": config.prompts // config.minibatches,  # in prompts, each with its whole group
        "ppo_micro_batch_size_per_gpu": rows_a_pass,
        "shuffle": config.minibatches > 1,
        "optim": {
            "lr": config.learning_rate,
            "lr_scheduler_type": "constant",
            "lr_warmup_steps": 0,
            "weight_decay": 0.0,
            "betas": [0.9, 0.999],
            "clip_grad": config.max_grad_norm,
        },
    }
    rollout = {
        "name": "vllm",
        "n": config.group_size,
        "temperature": config.temperature,
        "top_p": 1.0,
        "top_k": -1,
        "prompt_length": prompt_tokens,
        "response_length": config.max_new_tokens,
        "log_prob_micro_batch_size_per_gpu": rows_a_pass,
    }
    return {
        "algorithm": {
            "adv_estimator": "grpo",
            "norm_adv_by_std_in_grpo": config.scale == "std",
            "use_kl_in_reward": False,
        },
        "data": {
            "train_batch_size": config.prompts,
            "max_prompt_length": prompt_tokens,
            "max_response_length": config.max_new_tokens,
        },
        "actor_rollout_ref": {
            "model": {"path": model, "use_remove_padding": True},  # packed rows
            "actor": actor,
            "rollout": rollout,
            "ref": {"log_prob_micro_batch_size_per_gpu": rows_a_pass},
        },
        "trainer": {"n_gpus_per_node": gpus, "nnodes": nodes},
    }


def overrides(settings: dict, prefix: str = "") -> list[str]:
    """``{"a": {"b": 1}}`` as ``["a.b=1"]``, the form in which a command line of Hydra takes settings."""
    found = []
    for name, value in settings.items():
        if isinstance(value, dict):
            found += overrides(value, f"{prefix}{name}.")
        else:
            written = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
            found.append(f"{prefix}{name}={written}")
    return found
