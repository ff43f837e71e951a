"""PPO's critic: a trunk left alone, its own step size, a warm-up, whitened advantages, and how much it foresees."""

import copy

import numpy
import pytest
import torch

from grpo_teach import ALGORITHMS, GRPO, PPO, InputError, gae, score_with_values, values
from grpo_teach.advantages import explained_variance, returns_to_go, whitened
from grpo_teach.algorithms import ppo
from grpo_teach.learner import Learner, adamw
from grpo_teach.policy import Critic, Models

SIZES = {"prompts": 3, "group_size": 4, "max_new_tokens": 10}


def sgd(parameters, learning_rate):
    return torch.optim.SGD(parameters, lr=learning_rate)


def learner(policy, optimizer=sgd, **settings) -> Learner:
    """Of a policy whose critic already says something."""
    config = PPO(**SIZES | {"learning_rate": 0.1, "max_grad_norm": 1e6} | settings)
    models = Models.build(policy, config.critic)
    torch.manual_seed(3)
    torch.nn.init.normal_(models.critic.head.weight, std=0.1)
    return Learner(models, ALGORITHMS["ppo"], config, optimizer)


def moved(one: Learner, rollouts, rewards) -> dict[str, torch.Tensor]:
    """How far each weight goes in one batch, by name."""
    before = {name: weight.clone() for name, weight in one.models.learnt().items()}
    one.learn(rollouts, rewards)
    return {name: weight - before[name] for name, weight in one.models.learnt().items()}


def of(steps: dict, owner: str) -> torch.Tensor:
    return torch.cat([step.flatten() for name, step in steps.items() if name.startswith(owner)])


# A detached head --------------------------------------------------------------------------------------------------


def test_a_detached_head_says_and_learns_what_a_head_does_and_leaves_the_trunk_alone(policy, rollouts, rewards):
    critics = {kind: Critic(policy, kind) for kind in ("head", "detached")}
    critics["detached"].load_state_dict(critics["head"].state_dict())
    for critic in critics.values():
        torch.nn.init.ones_(critic.head.weight)
    told = {kind: values(policy, critic, rollouts) for kind, critic in critics.items()}
    assert torch.equal(told["head"], told["detached"])
    trunk = list(policy.get_decoder().parameters())
    gradients = {}
    for kind, critic in critics.items():
        loss = told[kind].square().sum()
        weights = [*trunk, *critic.parameters()]
        gradients[kind] = torch.autograd.grad(loss, weights, allow_unused=True)
    assert all(gradient is None for gradient in gradients["detached"][: len(trunk)])
    assert gradients["head"][0].any()
    for one, other in zip(gradients["head"][len(trunk) :], gradients["detached"][len(trunk) :], strict=True):
        assert torch.equal(one, other)


def test_the_policy_beside_a_detached_head_learns_as_if_the_value_loss_were_not_there(policy, rollouts, rewards):
    config = PPO(**SIZES, critic="detached", value_coefficient=1.0)
    models = Models.build(policy, "detached")
    torch.nn.init.normal_(models.critic.head.weight)
    weights = list(policy.parameters())

    def gradient(**settings):
        loss, _ = next(ppo.update(models, rollouts, rewards, PPO(**vars(config) | settings)))
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])

    assert torch.equal(gradient(), gradient(value_coefficient=0.0))
    models.critic.detached = False
    assert (gradient() - gradient(value_coefficient=0.0)).abs().max() > 1e-3


def test_the_policys_log_probs_keep_their_gradient_beside_a_detached_head(policy, rollouts):
    logprobs, told = score_with_values(policy, Critic(policy, "detached"), rollouts)
    (logprobs.sum() + told.sum()).backward()
    assert all(weight.grad is not None for weight in policy.parameters())


# Its own step size and warm-up ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["head", "detached", "separate"])
def test_the_critic_takes_steps_of_its_own_size(policy, rollouts, rewards, kind):
    steps = [
        moved(learner(copy.deepcopy(policy), critic=kind, critic_learning_rate=rate), rollouts, rewards)
        for rate in (0.0, 0.3)
    ]
    torch.testing.assert_close(of(steps[1], "critic."), 3 * of(steps[0], "critic."), rtol=1e-3, atol=1e-6)
    assert of(steps[0], "critic.").any()


def test_the_policys_step_does_not_hang_on_the_critics_rate(policy, rollouts, rewards):
    one, other = (
        moved(learner(copy.deepcopy(policy), critic_learning_rate=rate), rollouts, rewards) for rate in (0.0, 0.3)
    )
    assert torch.equal(of(one, "policy."), of(other, "policy.")) and of(one, "policy.").any()


def test_a_wrong_critic_does_not_shorten_the_policys_step(policy, rollouts, rewards):
    settings = {"critic": "separate", "max_grad_norm": 0.01, "lam": 1.0}
    fine, wild = (learner(copy.deepcopy(policy), value_coefficient=c, **settings) for c in (0.01, 1e4))
    fine, wild = (moved(one, rollouts, rewards) for one in (fine, wild))
    torch.testing.assert_close(of(wild, "policy."), of(fine, "policy."))
    fine.pop("policy.lm_head.weight")  # the embedding once more
    for steps, owner in ((fine, "policy."), (wild, "critic.")):
        assert float(of(steps, owner).norm()) == pytest.approx(0.1 * 0.01, rel=1e-3)  # rate times the longest gradient


@pytest.mark.parametrize("kind", ["head", "detached", "separate"])
def test_in_the_warm_up_the_critic_learns_alone(policy, rollouts, rewards, kind):
    one = learner(policy, adamw, critic=kind, critic_warmup=2, learning_rate=1e-3)
    for batch in range(3):
        steps = moved(one, rollouts, rewards)
        assert of(steps, "critic.").any()
        assert bool(of(steps, "policy.").any()) == (batch == 2)


def test_without_a_critic_there_is_no_warm_up_and_one_group_of_weights(policy, rollouts, rewards):
    config = GRPO(**SIZES)
    one = Learner(Models(policy), ALGORITHMS["grpo"], config)
    assert len(one.optimizer.param_groups) == 1
    assert of(moved(one, rollouts, rewards), "policy.").any()


def test_a_warm_up_may_be_0_and_not_less():
    assert PPO(critic_warmup=0).critic_warmup == 0
    for wrong in (-1, 0.5, True):
        with pytest.raises(InputError, match="critic_warmup must be a whole number of at least 0"):
            PPO(critic_warmup=wrong)
    with pytest.raises(InputError, match="epochs must be a whole number of at least 1"):
        PPO(epochs=0)


# Whitening --------------------------------------------------------------------------------------------------------

MASK = torch.tensor([[1.0, 1, 0], [1, 1, 1]])
ADVANTAGES = torch.tensor([[0.5, 1.5, 99.0], [-1.0, 0.0, 2.0]])


def test_whitened_advantages_have_mean_0_and_variance_1_over_the_real_tokens():
    out = whitened(ADVANTAGES, MASK)
    real = numpy.array([0.5, 1.5, -1.0, 0.0, 2.0])
    expected = (real - real.mean()) / real.std(ddof=1)
    assert out[MASK.bool()].numpy() == pytest.approx(expected, abs=1e-5)
    assert out[0, 2] == 0


def test_equal_advantages_are_whitened_to_0_and_what_stands_in_the_padding_does_not_matter():
    assert (whitened(torch.full((2, 3), 0.3), MASK) == 0).all()
    rubbish = torch.where(MASK.bool(), ADVANTAGES, float("nan"))
    assert torch.equal(whitened(rubbish, MASK), whitened(ADVANTAGES, MASK))
    assert not whitened(ADVANTAGES.clone().requires_grad_(), MASK).requires_grad
    assert whitened(torch.ones(1, 2), torch.tensor([[1.0, 0.0]])).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("whiten", [False, True])
def test_ppo_learns_from_whitened_advantages_where_it_is_asked_to_and_its_critic_from_the_plain_returns(
    policy, rollouts, rewards, whiten, monkeypatch
):
    seen = {}

    def losses(name):
        real = getattr(ppo, name)

        def noted(*given):
            seen[name] = given[2]
            return real(*given)

        monkeypatch.setattr(ppo, name, noted)

    losses("clipped_policy_loss"), losses("value_loss")
    models = Models.build(policy, "head")
    torch.nn.init.normal_(models.critic.head.weight, std=0.1)
    config = PPO(**SIZES, whiten=whiten, gamma=0.9)
    next(ppo.update(models, rollouts, rewards, config))
    told = values(policy, models.critic, rollouts).detach()
    token_rewards = torch.zeros_like(told)
    token_rewards[torch.arange(12), rollouts.lengths - 1] = rewards.flatten()
    advantages, returns = gae(token_rewards, told, rollouts.mask, 0.9, 0.95)
    expected = whitened(advantages, rollouts.mask) if whiten else advantages
    torch.testing.assert_close(seen["clipped_policy_loss"], expected)
    torch.testing.assert_close(seen["value_loss"], returns)
    assert float((expected - advantages).abs().max() > 0.1) == whiten


# What a critic foresees -------------------------------------------------------------------------------------------


def test_explained_variance_is_1_for_a_perfect_critic_0_for_a_constant_one_and_below_for_a_worse():
    returns = torch.tensor([[1.0, 1.0, 5.0], [0.0, 0.0, 1.0]])
    assert explained_variance(returns, returns, MASK) == pytest.approx(1)
    assert explained_variance(returns + 0.7, returns, MASK) == pytest.approx(1)  # an offset is no variance
    assert explained_variance(torch.full_like(returns, 0.4), returns, MASK) == pytest.approx(0)
    assert explained_variance(-returns, returns, MASK) == pytest.approx(-3)
    assert explained_variance(0.5 * returns, returns, MASK) == pytest.approx(0.75)


def test_where_all_returns_are_equal_there_is_nothing_to_foresee():
    assert explained_variance(ADVANTAGES, torch.ones(2, 3), MASK) == 0


def test_ppo_says_what_its_critic_foresaw_of_the_rewards_that_came(policy, rollouts, rewards):
    models = Models.build(policy, "head")
    torch.nn.init.normal_(models.critic.head.weight)
    config = PPO(**SIZES, gamma=0.9, lam=0.5)
    _, metrics = next(ppo.update(models, rollouts, rewards, config))
    told = values(policy, models.critic, rollouts).detach()
    came, foreseen = [], []
    for b in range(12):
        for t in range(int(rollouts.lengths[b])):
            came.append(float(rewards.flatten()[b]) * 0.9 ** (int(rollouts.lengths[b]) - 1 - t))
            foreseen.append(float(told[b, t]))
    came, foreseen = numpy.array(came), numpy.array(foreseen)
    expected = 1 - (came - foreseen).var(ddof=1) / came.var(ddof=1)
    assert metrics["explained_variance"] == pytest.approx(expected, rel=1e-4)
    assert expected < -1, "a critic of random weights should be worse than a constant"
    token_rewards = torch.zeros_like(told)
    token_rewards[torch.arange(12), rollouts.lengths - 1] = rewards.flatten()
    again = explained_variance(told, returns_to_go(token_rewards, rollouts.mask, 0.9), rollouts.mask)
    assert metrics["explained_variance"] == pytest.approx(again)
