"""Settings that cannot work are refused by name, and an update visits its rows as often as they say."""

import dataclasses

import pytest
import torch

from grpo_teach import ALGORITHMS, GRPO, PPO, SFT, InputError, PolicyGradient
from grpo_teach.algorithms.common import minibatches
from grpo_teach.policy import Models

SIZES = {"prompts": 3, "group_size": 4, "max_new_tokens": 10}


@pytest.mark.parametrize("epochs, parts", [(1, 1), (1, 3), (2, 1), (4, 5), (1, 12)])
def test_each_epoch_visits_every_row_once(rollouts, epochs, parts):
    visits = list(minibatches(rollouts, PPO(**SIZES, epochs=epochs, minibatches=parts)))
    assert len(visits) == epochs * parts
    assert {len(rows) for rows in visits} <= {12 // parts, -(-12 // parts)}
    for epoch in range(epochs):
        rows = torch.cat(visits[epoch * parts : (epoch + 1) * parts])
        assert sorted(rows.tolist()) == list(range(12))


def test_epochs_are_shuffled_afresh_and_by_the_seed(rollouts):
    config = PPO(**SIZES, epochs=2, minibatches=3)
    first, again, other = (
        (torch.manual_seed(seed), torch.cat(list(minibatches(rollouts, config))).tolist())[1] for seed in (5, 5, 6)
    )
    assert first == again != other
    assert first[:12] != first[12:]
    assert first[:12] != list(range(12))


def test_fewer_rows_than_minibatches_give_fewer_minibatches(rollouts):
    two = rollouts[torch.tensor([3, 5])]
    visits = list(minibatches(two, SFT(**SIZES, minibatches=5)))
    assert sorted(torch.cat(visits).tolist()) == [0, 1]
    assert all(len(rows) for rows in visits)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_update_takes_epochs_times_minibatches_steps(policy, rollouts, rewards, name):
    algorithm = ALGORITHMS[name]
    config = algorithm.Settings(**SIZES, epochs=3, minibatches=2)
    steps = list(algorithm.update(Models.build(policy, "shared"), rollouts, rewards, config))
    assert len(steps) == 6
    assert all(loss.dim() == 0 for loss, _ in steps)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_later_step_sees_the_policy_as_it_is_by_then(policy, rollouts, rewards, name):
    algorithm = ALGORITHMS[name]
    models = Models.build(policy, "shared")
    steps = algorithm.update(models, rollouts, rewards, algorithm.Settings(**SIZES, epochs=2))
    assert next(steps)[1]["old_kl"] == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        policy.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    assert next(steps)[1]["old_kl"] > 1e-3


@pytest.mark.parametrize(
    "settings, field, value",
    [
        (GRPO, "group_size", 1),
        (GRPO, "scale", "mean"),
        (GRPO, "ratio", "row"),
        (GRPO, "beta", -0.1),
        (GRPO, "clip_low", float("nan")),
        (PPO, "critic", "none"),
        (PPO, "kl_coefficient", float("inf")),
        (PolicyGradient, "baseline", "group"),
        (SFT, "aggregation", "mean"),
        (PPO, "gamma", 1.5),
        (PPO, "lam", 2.0),
        (SFT, "temperature", "hot"),
        (SFT, "prompts", True),
        (SFT, "temperature", 0.0),
        (SFT, "temperature", -1.0),
        (SFT, "learning_rate", 0.0),
        (SFT, "learning_rate", float("nan")),
        (SFT, "max_grad_norm", 0.0),
        (SFT, "prompts", 0),
        (SFT, "group_size", 0),
        (SFT, "max_new_tokens", -3),
        (SFT, "epochs", 0),
        (SFT, "epochs", 1.5),
        (SFT, "minibatches", 0),
        (SFT, "minibatches", 10_000),
    ],
)
def test_what_cannot_work_is_refused_by_name_in_one_line(settings, field, value):
    with pytest.raises(InputError, match=field) as caught:
        settings(**{field: value})
    assert len(str(caught.value).splitlines()) == 1


def test_more_minibatches_than_rows_are_refused_at_the_boundary():
    assert SFT(**SIZES, minibatches=12).minibatches == 12
    with pytest.raises(InputError, match="minibatches"):
        SFT(**SIZES, minibatches=13)


def test_a_group_of_one_is_enough_without_a_group_baseline():
    for settings in (SFT, PolicyGradient, PPO):
        assert settings(group_size=1).group_size == 1


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_setting_says_what_it_means_and_allows_its_default(name):
    for field in dataclasses.fields(ALGORITHMS[name].Settings):
        assert len(field.metadata["meaning"]) > 10
        assert not field.metadata["choices"] or field.default in field.metadata["choices"]
