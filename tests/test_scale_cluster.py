"""The arithmetic of many GPUs, and verl's configuration read by verl itself."""

import itertools
import os

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grpo_teach import ALGORITHMS, GRPO, InputError, aggregate, group_relative_advantages
from grpo_teach.scale.cluster import on_gpus, packed, padding_share, sync_seconds, waiting_share
from grpo_teach.scale.verl import overrides, to_verl


def test_a_step_on_many_gpus():
    assert on_gpus(30.0, 12.0, 1) == 42.0
    assert on_gpus(30.0, 12.0, 4) == 33.0  # the update is shared out, the sampling is not
    assert on_gpus(30.0, 12.0, 4, batches=4) == 42.0  # four times the rows in the time of one
    with pytest.raises(ValueError, match="a batch a GPU"):
        on_gpus(30.0, 12.0, 4, batches=5)


def test_waiting_padding_and_the_wire():
    assert waiting_share([10, 10]) == 0 and waiting_share([10, 0, 0, 10]) == 0.5
    assert padding_share([1, 9, 2, 8], rows=1) == 0
    assert padding_share([1, 9, 2, 8], rows=2) == pytest.approx(1 - 20 / 34)
    assert padding_share([1, 2, 8, 9], rows=2) == pytest.approx(1 - 20 / 22)
    assert padding_share([4, 4, 2], rows=2) == 0
    assert sync_seconds(7e9, 25) == pytest.approx(0.56) and sync_seconds(1e9, 1, bytes_each=4) == 4.0


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40))
def test_every_row_is_packed_once_and_fits(lengths):
    packs = packed(lengths, 50)
    assert sorted(itertools.chain(*packs)) == list(range(len(lengths)))
    filled = [sum(lengths[row] for row in pack) for pack in packs]
    assert max(filled) <= 50
    assert all(a + b > 50 for a, b in itertools.combinations(filled, 2)), "two packs would go into one"


def test_packing_by_hand():
    assert packed([2, 6, 4, 8], 10) == [[3, 0], [1, 2]]
    with pytest.raises(ValueError, match="fits in no pack"):
        packed([11], 10)


# verl -------------------------------------------------------------------------------------------------------------


def test_overrides_are_hydras():
    found = overrides({"a": {"b": 1, "c": None}, "d": True, "e": {"f": {"g": [0.9, 0.999]}}, "h": 0, "i": 1.0})
    assert found == ["a.b=1", "a.c=null", "d=true", "e.f.g=[0.9,0.999]", "h=0", "i=1.0"]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"ratio": "sequence"}, "geometric mean"),
        ({"scale": "batch"}, "standard deviation"),
        ({"minibatches": 3}, "multiple"),
    ],
)
def test_what_verl_cannot_do_is_refused(other, says):
    with pytest.raises(InputError, match=says):
        to_verl(GRPO(**other), "some/model")
    with pytest.raises(InputError, match="settings of GRPO"):
        to_verl(ALGORITHMS["ppo"].Settings(), "some/model")


@pytest.mark.parametrize("how", ["sequence_mean", "token_mean", "fixed_length"])
def test_verls_own_classes_read_it(how):
    pytest.importorskip("verl", reason="verl asks for an older transformers than this project's")
    from hydra import compose, initialize_config_module
    from verl.trainer.config import AlgoConfig
    from verl.utils.config import omega_conf_to_dataclass

    config = GRPO(aggregation=how, beta=0.04, scale="none", minibatches=4, max_new_tokens=100, clip_high=0.28)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    with initialize_config_module("verl.trainer.config", version_base=None):
        read = compose("ppo_trainer", overrides=overrides(to_verl(config, "some/model")))
    algorithm = omega_conf_to_dataclass(read.algorithm, AlgoConfig)
    assert algorithm.adv_estimator == "grpo" and algorithm.norm_adv_by_std_in_grpo is False
    actor, rollout = omega_conf_to_dataclass(read.actor_rollout_ref.actor), read.actor_rollout_ref.rollout
    modes = {
        "sequence_mean": "seq-mean-token-mean",
        "token_mean": "token-mean",
        "fixed_length": "seq-mean-token-sum-norm",
    }
    assert actor.loss_agg_mode == modes[how] and actor.loss_scale_factor == (100 if how == "fixed_length" else None)
    assert (actor.clip_ratio_low, actor.clip_ratio_high, actor.kl_loss_coef) == (0.2, 0.28, 0.04)
    assert actor.use_kl_loss and actor.kl_loss_type == "low_var_kl" and actor.policy_loss.loss_mode == "vanilla"
    assert actor.optim.lr == config.learning_rate and actor.optim.weight_decay == 0 and actor.optim.clip_grad == 1.0
    assert actor.ppo_mini_batch_size == 4 and actor.ppo_epochs == 1 and actor.entropy_coeff == 0
    assert (rollout.n, rollout.temperature, rollout.top_p, rollout.top_k) == (16, 1.0, 1.0, -1)
    assert (read.data.train_batch_size, read.data.max_response_length) == (16, 100)


@pytest.mark.parametrize("how", ["sequence_mean", "token_mean", "fixed_length"])
def test_verls_own_functions_compute_our_advantages_and_our_mean(how):
    pytest.importorskip("verl", reason="verl asks for an older transformers than this project's")
    from verl.trainer.ppo.core_algos import agg_loss, compute_grpo_outcome_advantage

    torch.manual_seed(0)
    rewards, mask = torch.rand(3, 4), (torch.arange(7) < torch.randint(1, 8, (12, 1))).float()
    token_rewards = torch.zeros(12, 7)
    token_rewards[:, 0] = rewards.flatten()
    for scale in ("std", "none"):
        written = to_verl(GRPO(scale=scale), "some/model")["algorithm"]["norm_adv_by_std_in_grpo"]
        theirs, _ = compute_grpo_outcome_advantage(
            token_rewards, mask, numpy.repeat(range(3), 4), norm_adv_by_std_in_grpo=written
        )
        ours = group_relative_advantages(rewards, scale, eps=1e-6).reshape(-1, 1) * mask
        torch.testing.assert_close(ours, theirs)
    token_loss = torch.randn(12, 7)
    actor = to_verl(GRPO(aggregation=how, max_new_tokens=50), "some/model")["actor_rollout_ref"]["actor"]
    theirs = agg_loss(token_loss, mask, actor["loss_agg_mode"], loss_scale_factor=actor["loss_scale_factor"])
    torch.testing.assert_close(aggregate(token_loss, mask, how, length=50), theirs)
