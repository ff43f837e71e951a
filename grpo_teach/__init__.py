"""GRPO from First Principles: four ways to train a language model by its own answers, side by side.

The house has one rule, which ``tests/test_house.py`` keeps. A file at the top level is **engine**, and so are
``algorithms/``, ``tasks/`` and ``rewards/``: what a reader holds in an afternoon. Every other folder is **laboratory**:
what measures, draws, records or drives the engine. The engine imports no laboratory, no room reaches into another's
private names, and nothing imports in a circle.
"""

from grpo_teach import moved, rollout  # so that imports by old names find the modules where they stand now
from grpo_teach.advantages import gae, group_relative_advantages, leave_one_out_advantages, per_token, returns_to_go
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
from grpo_teach.rollout import Rollouts, from_text, sample
from grpo_teach.score import Scoring, score, score_with_values, values
from grpo_teach.supervise import supervise
from grpo_teach.tasks import TASKS, ChainSum, Problem, Task
from grpo_teach.train import train

__version__ = "0.1.0"

rollout.score, rollout.score_with_values = score, score_with_values  # where they stood once

__all__ = [name for name, value in globals().items() if name[0] != "_" and not isinstance(value, type(moved))]
