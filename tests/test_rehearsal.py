"""Two steps rehearsed within a pre-flight: real ones, priced by the ledger's set-up, that leave no trace."""

import copy

import pytest
from states import differences

from grpo_teach import ALGORITHMS, ChainSum
from grpo_teach.clinic.cost import setup_of
from grpo_teach.clinic.preflight import preflight
from grpo_teach.memory import Setup, Shape, predict
from grpo_teach.records import random_states
from grpo_teach.train import adamw

GRPO = ALGORITHMS["grpo"]
SMALL = {"prompts": 2, "group_size": 4, "max_new_tokens": 8}
CONFIG = GRPO.Settings(**SMALL)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_policy_and_all_random_states_are_left_as_they_were(policy, tokenizer, name):
    before, states = copy.deepcopy(policy.state_dict()), random_states()
    config = ALGORITHMS[name].Settings(**SMALL, learning_rate=0.1)
    reports = [preflight(policy, tokenizer, ChainSum(2), ALGORITHMS[name], config, problems=4) for _ in range(2)]
    assert differences(before, policy.state_dict()) == []
    assert differences(states, random_states()) == []
    assert not policy.training and all(p.grad is None and p.requires_grad for p in policy.parameters())
    assert reports[0].grades == reports[1].grades


def test_weights_come_back_after_a_step_that_failed(policy, tokenizer):
    before = copy.deepcopy(policy.state_dict())

    def update(models, rollouts, rewards, config):
        models.policy.lm_head.weight.data.zero_()
        raise RuntimeError("stop")
        yield

    with pytest.raises(RuntimeError, match="stop"):
        preflight(policy, tokenizer, ChainSum(2), GRPO._replace(update=update), CONFIG, problems=2)
    assert differences(before, policy.state_dict()) == []


def test_the_steps_are_real_ones_in_which_every_group_teaches(policy, tokenizer):
    seen = []

    def update(models, rollouts, rewards, config):
        seen.append(rewards)
        yield from GRPO.update(models, rollouts, rewards, config)

    found = preflight(
        policy, tokenizer, ChainSum(2), GRPO._replace(update=update), CONFIG, problems=2, budget_steps=7200
    )
    assert len(seen) == 2 and all(rewards.tolist() == [[0, 1, 0, 1]] * 2 for rewards in seen)
    cost = found.cost
    assert cost.sampling_seconds > 0 and cost.update_seconds > 0 and cost.measured_bytes > 10**8
    assert found.hours == pytest.approx(2 * (cost.sampling_seconds + cost.update_seconds))
    longest = 2 * 4 * 8  # rows times tokens
    assert 0 < cost.tokens_a_second * cost.seconds <= longest + 1e-6
    assert found.cost.predicted_bytes is None, "an algorithm of one's own is not in the ledger"


def test_the_ledger_is_asked_for_the_set_up_that_would_be_trained(policy, tokenizer):
    config = ALGORITHMS["ppo"].Settings(**SMALL, critic="separate")
    setup = setup_of(policy, ALGORITHMS["ppo"], config, 5, adamw, reference=False)
    meant = {"algorithm": "ppo", "method": "full", "critic": "separate", "reference": "none", "dtype": "float32"}
    meant |= {"optimizer": "adamw", "prompt_tokens": 5, "rows_a_pass": 64, "checkpointing": False, **SMALL}
    assert {name: getattr(setup, name) for name in meant} == meant
    found = preflight(policy, tokenizer, ChainSum(2), GRPO, CONFIG, problems=8)
    parts = {"algorithm": "grpo", "method": "full", "reference": "copy", "dtype": "float32", "optimizer": "adamw"}
    parts |= {"prompt_tokens": 4, "rows_a_pass": 64, "checkpointing": False, "chunk": setup.chunk}
    ledger = predict(Setup(Shape.of(policy.config), **parts, **SMALL))
    assert (found.cost.predicted_bytes, found.cost.peak_phase) == (ledger.terms["total"], ledger.peak[0])


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_an_adapter_is_left_as_it_was_and_named_in_the_ledger(method):
    pytest.importorskip("bitsandbytes")
    from test_large import tiny

    policy, tokenizer = tiny(method=method, dtype="bfloat16", rank=5, rows_a_pass=3)
    before = copy.deepcopy(policy.state_dict())
    found = preflight(policy, tokenizer, ChainSum(2), GRPO, CONFIG, problems=2)
    assert differences(before, policy.state_dict()) == [] and found.cost.predicted_bytes
    setup = setup_of(policy, GRPO, CONFIG, 4)
    assert (setup.method, setup.rank, setup.rows_a_pass, setup.dtype) == (method, 5, 3, "bfloat16")
    assert (setup.reference, setup.checkpointing, setup.optimizer) == ("adapter", True, "adamw")
