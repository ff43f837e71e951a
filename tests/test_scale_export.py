"""Our settings exported to TRL: one whole optimizer step there and here, on the same batch, ends at the same weights.

TRL runs its own pipeline from the completions on: rewards, advantages, masks, old and reference log-probs, loss,
clipping, AdamW. The completions are ours, handed in by its ``rollout_func``.
"""

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from conftest import PROMPTS

from grpo_teach import ALGORITHMS, GRPO, InputError, sample, score
from grpo_teach.learner import Learner
from grpo_teach.policy import Models, save_policy
from grpo_teach.scale.export import passes, to_trl

trl = pytest.importorskip("trl", minversion="1.16")
from datasets import Dataset  # noqa: E402

LONGEST, GROUP = 10, 4
CLOSE = 1e-3  # rotary positions are 32 bits wide, and TRL counts them from the padding
REWARDS = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.5, 0.0]])
SIZES = {"prompts": 3, "group_size": GROUP, "max_new_tokens": LONGEST, "learning_rate": 1e-3}


def settings(**other) -> GRPO:
    return GRPO(**SIZES | other)


@pytest.fixture(scope="module")
def start(template):
    """In 64 bits: of a gradient near 0, whose sign rounding decides, AdamW makes a step as long as any other."""
    return copy.deepcopy(template).double()


@pytest.fixture(scope="module")
def rollouts(start, tokenizer):
    """Ragged completions, some cut off at the limit."""
    torch.manual_seed(2)
    rows = sample(start, tokenizer, PROMPTS, GROUP, LONGEST)
    assert int(rows.lengths.min()) < LONGEST == int(rows.lengths.max())
    return rows


@pytest.fixture(scope="module")
def folder(start, tokenizer, tmp_path_factory):
    """Where TRL loads policy and reference from."""
    folder = tmp_path_factory.mktemp("policy")
    save_policy(start, tokenizer, folder)
    return folder


def theirs(folder, tokenizer, rollouts, arguments, out):
    """The weights after TRL has learnt from the batch, and the gradient's norm at each of its steps."""
    rows = [
        (prompt[seen.bool()].tolist(), ids[: int(n)].tolist())
        for prompt, seen, ids, n in zip(
            rollouts.prompt_ids, rollouts.prompt_mask, rollouts.completion_ids, rollouts.lengths, strict=True
        )
    ]

    def hand_in(prompts, trainer):
        assert prompts == [prompt for prompt in PROMPTS for _ in range(GROUP)]
        return {"prompt_ids": [p for p, _ in rows], "completion_ids": [c for _, c in rows], "logprobs": None}

    trainer = trl.GRPOTrainer(
        model=str(folder),
        reward_funcs=lambda completions, **_: REWARDS.flatten().tolist(),
        args=trl.GRPOConfig(
            output_dir=str(out), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
            save_strategy="no", disable_tqdm=True, logging_steps=1, model_init_kwargs={"dtype": "auto"}, **arguments,
        ),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
        processing_class=tokenizer,
        rollout_func=hand_in,
    )  # fmt: skip
    trainer.train()
    assert trainer.args.generation_batch_size == len(rollouts)
    norms = [row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row]
    return dict(trainer.model.named_parameters()), norms


def ours(start, rollouts, config):
    """The weights after our learner has learnt from the batch, its own copy of the policy as reference."""
    policy = copy.deepcopy(start)
    rollouts = replace(rollouts, old_logprobs=rollouts.old_logprobs.double(), mask=rollouts.mask.double())
    with torch.no_grad():
        rollouts = replace(rollouts, old_logprobs=score(start, rollouts, config.temperature))
    Learner(Models.build(policy), ALGORITHMS["grpo"], config).learn(rollouts, REWARDS)
    return dict(policy.named_parameters())


def apart(weights, others, start) -> float:
    """How far two ends lie apart, as a share of the way from the start."""

    def way(ends, beginnings):
        return torch.cat([(end - beginnings[name]).detach().flatten() for name, end in ends.items()])

    return float(way(weights, others).norm() / way(weights, dict(start.named_parameters())).norm())


GRID = {
    f"{how}, scale {scale}, beta {beta}": {"aggregation": how, "scale": scale, "beta": beta}
    for how, (scale, beta) in itertools.product(
        ("sequence_mean", "token_mean", "fixed_length"), (("std", 0.0), ("none", 0.04), ("batch", 0.0))
    )
}
GRID |= {
    "three passes over the batch, a KL term": {"epochs": 3, "beta": 0.1, "aggregation": "sequence_mean"},
    "three passes, clips of their own": {"epochs": 3, "clip_low": 0.01, "clip_high": 0.03, "learning_rate": 1e-2},
    "a small clip of the gradient": {"max_grad_norm": 0.01},
    "minibatches": {"minibatches": 2, "epochs": 2, "aggregation": "sequence_mean"},
    "minibatches, each by its own tokens": {"minibatches": 2, "epochs": 2, "aggregation": "token_mean"},
    "a temperature": {"temperature": 0.7, "epochs": 2},
}


@pytest.mark.parametrize("name", GRID)
def test_a_whole_batch_learnt_in_trl_ends_at_our_weights(
    name, start, tokenizer, folder, rollouts, tmp_path, monkeypatch
):
    config = settings(**GRID[name])
    monkeypatch.setattr(torch, "randperm", torch.arange)  # neither shuffles
    found, norms = theirs(folder, tokenizer, rollouts, to_trl(config, batches=1), tmp_path)
    wanted = ours(start, rollouts, config)
    assert found.keys() == wanted.keys() and len(norms) == config.epochs * config.minibatches
    assert apart(wanted, found, start) < CLOSE


@pytest.mark.parametrize("rows", [2, 5])
def test_passes_of_few_rows_change_nothing(rows, start, tokenizer, folder, rollouts, tmp_path):
    arguments = to_trl(settings(), batches=1, rows_a_pass=rows)
    assert arguments["per_device_train_batch_size"] <= rows and arguments["gradient_accumulation_steps"] > 1
    found, _ = theirs(folder, tokenizer, rollouts, arguments, tmp_path)
    assert apart(ours(start, rollouts, settings()), found, start) < CLOSE


def test_what_trl_would_do_by_default_is_another_step(start, tokenizer, folder, rollouts, tmp_path):
    config = settings(aggregation="sequence_mean", beta=1.0, epochs=4, learning_rate=1e-2)  # at first k3 has no slope
    arguments = to_trl(config, batches=1)
    wanted = ours(start, rollouts, config)
    for name in ("loss_type", "use_bias_correction_kl"):
        left = {other: value for other, value in arguments.items() if other != name}
        found, _ = theirs(folder, tokenizer, rollouts, left, tmp_path / name)
        assert apart(wanted, found, start) > 20 * CLOSE, name


# What cannot be exported ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "processes", "rows_a_pass", "says"),
    [
        ({"ratio": "sequence"}, 1, None, "geometric mean"),
        ({"max_grad_norm": 0.0}, 1, None, "max_grad_norm"),
        ({"minibatches": 2}, 2, None, "mean minibatch's tokens"),
        ({"minibatches": 2}, 1, 3, "mean minibatch's tokens"),
        ({"aggregation": "sequence_mean", "minibatches": 5}, 1, None, "multiple of processes"),
        ({}, 5, None, "multiple of processes"),
    ],
)
def test_what_trl_cannot_do_is_refused_in_one_line(other, processes, rows_a_pass, says):
    with pytest.raises(InputError, match=says) as refused:
        to_trl(settings(**other), 1, 0, processes, rows_a_pass)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["sft", "policy_gradient", "ppo"])
def test_another_algorithm_is_refused(name):
    with pytest.raises(InputError, match="settings of GRPO"):
        to_trl(ALGORITHMS[name].Settings(), 1)


@pytest.mark.parametrize("processes", [1, 2, 8])
@pytest.mark.parametrize("minibatches", [1, 4])
@pytest.mark.parametrize("rows_a_pass", [None, 1, 3, 7, 100])
def test_the_passes_of_all_processes_make_up_the_batch(processes, minibatches, rows_a_pass):
    config = GRPO(prompts=16, group_size=16, minibatches=minibatches, aggregation="sequence_mean")
    rows, count = passes(config, processes, rows_a_pass)
    assert rows * count * processes * minibatches == 256
    assert rows <= (rows_a_pass or 256)
    fewer = [n for n in range(1, count) if (rows * count) % n == 0 and rows * count // n <= (rows_a_pass or 256)]
    assert fewer == []
