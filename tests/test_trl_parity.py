"""GRPO's gradients against those of TRL's ``GRPOTrainer``, an independent implementation.

Gradients and not losses: on-policy the loss is near 0 whatever it is made of. Everything runs in memory, on
the CPU, without a network.
"""

import copy
import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import PROMPTS

from grpo_teach import GRPO, group_relative_advantages, sample, score
from grpo_teach.algorithms import grpo
from grpo_teach.policy import Models

trl = pytest.importorskip("trl", minversion="1.16")
from datasets import Dataset  # noqa: E402
from trl.trainer.utils import nanstd  # noqa: E402

LONGEST = 10
OURS = {"grpo": "sequence_mean", "bnpo": "token_mean", "dapo": "token_mean", "dr_grpo": "fixed_length"}


@pytest.fixture(scope="module")
def batches(template, other_policy, tokenizer):
    """For each temperature the same 12 rows, rewards and reference, on-policy and off-policy."""
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.5, 0.0]])
    result = {}
    for temperature in (1.0, 0.7):
        torch.manual_seed(2)
        rollouts = sample(template, tokenizer, PROMPTS, 4, LONGEST, temperature)
        with torch.no_grad():
            reference = score(other_policy, rollouts, temperature)
        noise = 0.25 * torch.randn_like(rollouts.mask) * rollouts.mask
        off_policy = replace(rollouts, old_logprobs=rollouts.old_logprobs + noise)
        result[temperature] = SimpleNamespace(
            rewards=rewards, reference=reference, rollouts={"on-policy": rollouts, "off-policy": off_policy}
        )
    return result


def trainer_of(kind, template, tokenizer, folder, **asked):
    """TRL's trainer of that kind around a copy of the policy."""
    arguments = getattr(trl, f"{kind}Config")(
        output_dir=str(folder),
        beta=0.0,  # a trainer with a reference model wants one from the hub; a test may switch the term on
        max_completion_length=LONGEST,
        num_generations=4,
        per_device_train_batch_size=12,
        use_cpu=True,
        bf16=False,
        report_to=[],
        **asked,
    )
    trainer = getattr(trl, f"{kind}Trainer")(
        model=copy.deepcopy(template),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": PROMPTS * 4}),
        processing_class=tokenizer,
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


def given(rollouts):
    """What TRL wants to know of a batch, under its names."""
    names = ("prompt_ids", "prompt_mask", "completion_ids")
    return {name: getattr(rollouts, name) for name in names} | {"completion_mask": rollouts.mask}


def assert_close(found, expected):
    """Gradients agree, and there are some."""
    assert found.keys() == expected.keys()
    largest = max(float(g.abs().max()) for g in expected.values())
    assert largest > 1e-3
    for name, gradient in expected.items():
        assert float((found[name] - gradient).abs().max()) <= 2e-5 * largest, name


@pytest.fixture(scope="module")
def trainers(template, tokenizer, tmp_path_factory):
    """One TRL trainer for each loss and temperature, around the same policy."""

    def build(loss_type, temperature):
        asked = {"loss_type": loss_type, "temperature": temperature}
        asked |= {"use_bias_correction_kl": False}  # the paper's KL term
        return trainer_of("GRPO", template, tokenizer, tmp_path_factory.mktemp("trl"), **asked)

    return {key: build(*key) for key in itertools.product(OURS, (1.0, 0.7))}


def gradients(loss, model):
    """By parameter name; a tied head counts once."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.mark.parametrize("on_or_off", ["on-policy", "off-policy"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("clip", [(0.2, 0.2), (0.1, 0.28)], ids=str)
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("loss_type", OURS)
def test_gradients(trainers, batches, policy, other_policy, loss_type, beta, clip, temperature, on_or_off):
    batch = batches[temperature]
    rollouts = batch.rollouts[on_or_off]
    config = GRPO(
        prompts=3,
        group_size=4,
        max_new_tokens=LONGEST,
        temperature=temperature,
        aggregation=OURS[loss_type],
        beta=beta,
        clip_low=clip[0],
        clip_high=clip[1],
    )
    loss, metrics = next(grpo.update(Models(policy, None, other_policy), rollouts, batch.rewards, config))
    ours = gradients(loss, policy)
    assert (metrics["clip_fraction"] > 0.1) == (on_or_off == "off-policy")

    trainer = trainers[loss_type, temperature]
    trainer.beta, (trainer.epsilon_low, trainer.epsilon_high) = beta, clip
    inputs = given(rollouts) | {
        "advantages": group_relative_advantages(batch.rewards).flatten(),
        "num_items_in_batch": rollouts.mask.sum(),
        "ref_per_token_logps": batch.reference,
    }
    if on_or_off == "off-policy":
        inputs["old_per_token_logps"] = rollouts.old_logprobs
    theirs = gradients(trainer._compute_loss(trainer.model, inputs), trainer.model)
    bound = trainer._metrics["train"]["clip_ratio/region_mean"][-1]
    assert (bound > 0.05) == (on_or_off == "off-policy"), "the clip should bind off-policy"

    assert_close(ours, theirs)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages(scale):
    # The lines of GRPOTrainer._generate_and_score_completions that turn rewards into advantages, TRL 1.16.
    rewards = torch.cat([torch.randn(5, 6), torch.ones(1, 6)])
    flat = rewards.flatten()
    mean = torch.nanmean(flat.view(-1, 6), dim=1).repeat_interleave(6, dim=0)
    std = nanstd(flat).expand_as(flat) if scale == "batch" else nanstd(rewards, dim=1).repeat_interleave(6, dim=0)
    theirs = flat - mean if scale == "none" else (flat - mean) / (std + 1e-4)
    ours = group_relative_advantages(rewards, {"group": "std"}.get(scale, scale))
    torch.testing.assert_close(ours, theirs.view(6, 6), rtol=1e-6, atol=1e-6)
