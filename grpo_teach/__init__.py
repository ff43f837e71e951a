"""GRPO from First Principles: four ways to train a language model by its own answers, side by side."""

from grpo_teach.advantages import (
    gae,
    group_relative_advantages,
    leave_one_out_advantages,
    per_token,
    returns_to_go,
)
from grpo_teach.algorithms import ALGORITHMS, GRPO, PPO, SFT, PolicyGradient
from grpo_teach.errors import InputError, TrainingDiverged
from grpo_teach.evaluate import Evaluation, evaluate, pass_at_k, wilson_interval
from grpo_teach.losses import (
    aggregate,
    chunked_token_logprobs,
    clipped_policy_loss,
    kl_k1,
    kl_k2,
    kl_k3,
    policy_gradient_loss,
    token_logprobs,
    value_loss,
)
from grpo_teach.policy import load_base, load_policy
from grpo_teach.rollout import Rollouts, from_text, sample, score
from grpo_teach.tasks import TASKS, ChainSum, Problem, Task
from grpo_teach.train import train

__version__ = "0.1.0"

__all__ = [
    "ALGORITHMS",
    "GRPO",
    "PPO",
    "SFT",
    "TASKS",
    "ChainSum",
    "Evaluation",
    "InputError",
    "PolicyGradient",
    "Problem",
    "Rollouts",
    "Task",
    "TrainingDiverged",
    "aggregate",
    "chunked_token_logprobs",
    "clipped_policy_loss",
    "evaluate",
    "from_text",
    "gae",
    "group_relative_advantages",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "leave_one_out_advantages",
    "load_base",
    "load_policy",
    "pass_at_k",
    "per_token",
    "policy_gradient_loss",
    "returns_to_go",
    "sample",
    "score",
    "token_logprobs",
    "train",
    "value_loss",
    "wilson_interval",
]
