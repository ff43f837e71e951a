"""Gradients of what came after GRPO against those of TRL, an independent implementation, where it has them.

Everything runs in memory, on the CPU, without a network. Traps of TRL 1.16: ``epsilon_high`` is CISPO's cap itself and
not its distance from 1; ``dr_grpo`` drops the length alone (``scale_rewards="none"`` drops the deviation); GSPO is
``importance_sampling_level="sequence"`` with ``loss_type="grpo"``.
"""

import pytest
import torch
from conftest import REWARDS
from test_trl_parity import LONGEST, assert_close, batches, given, gradients, trainer_of  # noqa: F401

from grpo_teach import group_relative_advantages, leave_one_out_advantages
from grpo_teach.algorithms.later import LATER
from grpo_teach.policy import Models

CLIP = {"epsilon": 0.1, "epsilon_high": 0.15}
SAME = {"clip_low": 0.1, "clip_high": 0.15}
# For each algorithm our settings, TRL's, and how its advantages are made.
PAIRS = {
    "dr_grpo": (SAME, CLIP | {"loss_type": "dr_grpo"}, "none"),
    "dapo": (SAME, CLIP | {"loss_type": "dapo"}, "std"),
    "gspo": (
        {"clip_low": 0.02, "clip_high": 0.03},
        {"epsilon": 0.02, "epsilon_high": 0.03, "loss_type": "grpo", "importance_sampling_level": "sequence"},
        "std",
    ),
    "cispo": ({"clip_high": 0.15}, {"epsilon_high": 1.15, "loss_type": "cispo"}, "std"),
    "sapo": ({"tau_rise": 1.0, "tau_fall": 1.5}, {"sapo_temperature_neg": 1.5, "loss_type": "sapo"}, "std"),
}


def ours(name, settings, policy, rollouts):
    algorithm = LATER[name]
    config = algorithm.Settings(prompts=3, group_size=4, max_new_tokens=LONGEST, **settings)
    loss, metrics = next(algorithm.update(Models(policy), rollouts, REWARDS, config))
    return gradients(loss, policy), metrics


@pytest.mark.parametrize("name", PAIRS)
def test_gradients_off_policy(name, batches, template, policy, tokenizer, tmp_path):  # noqa: F811
    rollouts = batches[1.0].rollouts["off-policy"]
    mine, theirs, scale = PAIRS[name]
    found, metrics = ours(name, mine, policy, rollouts)
    assert name == "sapo" or 0.05 < metrics["clip_fraction"] < 1
    trainer = trainer_of("GRPO", template, tokenizer, tmp_path, **theirs)
    inputs = given(rollouts) | {
        "advantages": group_relative_advantages(REWARDS, scale).flatten(),
        "num_items_in_batch": rollouts.mask.sum(),
        "old_per_token_logps": rollouts.old_logprobs,
    }
    assert_close(found, gradients(trainer._compute_loss(trainer.model, inputs), trainer.model))


def test_gradients_of_rloo(batches, template, policy, tokenizer, tmp_path):  # noqa: F811
    rollouts = batches[1.0].rollouts["off-policy"]
    found, _ = ours("rloo", {"clip_low": 0.3, "clip_high": 0.4}, policy, rollouts)
    clip = {"epsilon": 0.3, "epsilon_high": 0.4}
    trainer = trainer_of("RLOO", template, tokenizer, tmp_path, **clip)
    old = (rollouts.old_logprobs * rollouts.mask).sum(dim=1)
    inputs = given(rollouts) | {"advantages": leave_one_out_advantages(REWARDS).flatten(), "old_logps": old}
    assert_close(found, gradients(trainer._compute_loss(trainer.model, inputs), trainer.model))
    assert 0 < trainer._metrics["train"]["clip_ratio/region_mean"][-1] < 1, "the clip should bind for some"


def test_leave_one_out_is_trls():
    # The lines of RLOOTrainer._generate_and_score_completions that make advantages of rewards, TRL 1.16.
    rewards = torch.randn(5, 6)
    theirs = rewards - (rewards.sum(dim=1, keepdim=True) - rewards) / (6 - 1)
    torch.testing.assert_close(leave_one_out_advantages(rewards), theirs)
