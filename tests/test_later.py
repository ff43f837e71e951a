"""What came after GRPO: its mathematics by hand, its updates against formulas written out here, and what it samples."""

import itertools
import math
from dataclasses import dataclass

import pytest
import torch

from grpo_teach import ALGORITHMS, GRPO, InputError, aggregate, kl_k3, records, sample, score, train
from grpo_teach.algorithms import Algorithm
from grpo_teach.algorithms.later import LATER, formulas, maxrl, reinforce_pp, rloo
from grpo_teach.algorithms.later.dapo import DAPO, DynamicSampling, Overlong, joined
from grpo_teach.policy import Models

LONGEST = 10


def gradient(loss, *inputs):
    return torch.autograd.grad(loss, inputs)


# Formulas ---------------------------------------------------------------------------------------------------------


def test_the_ratio_of_a_sequence_is_the_geometric_mean_of_its_tokens():
    logprobs = torch.tensor([[-1.0, -2.0, 5.0], [-0.5, -0.5, -0.5]], requires_grad=True)
    old = torch.tensor([[-1.3, -2.1, float("nan")], [-0.5, -0.5, -0.5]], requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    ratio = formulas.sequence_ratio(logprobs, old, mask)
    assert ratio.tolist() == pytest.approx([math.exp(0.2), 1.0])
    (slope,) = gradient(ratio.sum(), logprobs)
    expected = [[math.exp(0.2) / 2, math.exp(0.2) / 2, 0.0], [1 / 3, 1 / 3, 1 / 3]]
    torch.testing.assert_close(slope, torch.tensor(expected))
    assert not formulas.sequence_ratio(logprobs.detach(), old, mask).requires_grad


def test_a_row_without_a_token_has_a_ratio_of_1():
    assert formulas.sequence_ratio(torch.ones(1, 2), torch.zeros(1, 2), torch.zeros(1, 2)).tolist() == [1.0]


def test_a_truncated_weight_is_capped_and_has_no_gradient():
    logprobs = torch.log(torch.tensor([[0.8, 0.3, 0.05]])).requires_grad_()
    sampler = torch.log(torch.tensor([[0.2, 0.2, 0.5]]))
    weight = formulas.truncated_weight(logprobs, sampler, 2.0)
    torch.testing.assert_close(weight, torch.tensor([[2.0, 1.5, 0.1]]))
    assert not weight.requires_grad
    torch.testing.assert_close(formulas.truncated_weight(logprobs, sampler, 2.0, 0.4), torch.tensor([[2.0, 1.5, 0.4]]))


@pytest.mark.parametrize("ratio", [0.2, 1.0, 1.7])
@pytest.mark.parametrize(("advantage", "tau"), [(2.0, 1.5), (-2.0, 3.0)])
def test_the_soft_gate_by_its_gradient(ratio, advantage, tau):
    logprobs = torch.tensor([[math.log(ratio) - 1]], dtype=torch.float64, requires_grad=True)
    old, advantages = torch.tensor([[-1.0]], dtype=torch.float64), torch.tensor([[advantage]], dtype=torch.float64)
    loss = formulas.soft_gated_loss(logprobs, old, advantages, 1.5, 3.0)
    p = 1 / (1 + math.exp(-tau * (ratio - 1)))
    assert float(loss.detach()) == pytest.approx(-advantage * p * 4 / tau)
    assert float(gradient(loss.sum(), logprobs)[0]) == pytest.approx(-advantage * ratio * 4 * p * (1 - p))


def test_the_gate_gives_no_gradient_to_what_sampled_or_was_paid():
    parts = [torch.full((1, 1), x, requires_grad=True) for x in (-1.0, -1.2, 0.5)]
    found = torch.autograd.grad(formulas.soft_gated_loss(*parts).sum(), parts, allow_unused=True)
    assert found[0] is not None and found[1] is None and found[2] is None


def test_maxrl_divides_by_the_mean():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.1, 0.1, 0.1, 0.1]])
    found = formulas.success_relative_advantages(rewards)
    expected = [[3.0, -1.0, -1.0, -1.0], [1 / 3, 1 / 3, 1 / 3, -1.0], [0.0] * 4, [0.0] * 4]
    torch.testing.assert_close(found, torch.tensor(expected))
    assert not formulas.success_relative_advantages(rewards.requires_grad_()).requires_grad
    with pytest.raises(ValueError, match="below 0"):
        formulas.success_relative_advantages(-rewards)


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("p", [0.1, 0.6])
def test_maxrls_mean_is_the_gradient_of_its_series(size, p):
    """One answer is right with probability p = sigmoid(theta): every group of answers is listed."""
    mean = 0.0
    for group in itertools.product((0.0, 1.0), repeat=size):
        advantages = formulas.success_relative_advantages(torch.tensor([group], dtype=torch.float64))[0]
        scores = torch.tensor([1 - p if right else -p for right in group], dtype=torch.float64)
        chance = math.prod(p if right else 1 - p for right in group)
        mean += chance * float((advantages * scores).mean())
    slope = p * (1 - p)  # of p
    assert mean == pytest.approx(slope * sum((1 - p) ** (k - 1) for k in range(1, size)))


def test_the_overlong_penalty():
    lengths = torch.tensor([0, 16, 17, 18, 20, 25])
    assert formulas.overlong_penalty(lengths, 20, 4).tolist() == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]


def test_a_row_mean_leaves_the_padding_out():
    values = torch.tensor([[1.0, 3.0, float("nan")], [2.0, 0.0, 0.0]])
    assert formulas.row_means(values, torch.tensor([[1, 1, 0], [1, 0, 0]])).tolist() == [2.0, 2.0]


# Updates ----------------------------------------------------------------------------------------------------------


def settings(name, **changes):
    return LATER[name].Settings(prompts=3, group_size=4, max_new_tokens=LONGEST, **changes)


def found(name, policy, rollouts, rewards, reference=None, **changes):
    """The gradient of one update, of all weights together."""
    models = Models(policy, None, reference)
    loss, metrics = next(LATER[name].update(models, rollouts, rewards, settings(name, **changes)))
    return flat(loss, policy), metrics


def flat(loss, policy):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(policy.parameters()))])


def moved(rollouts, by=0.2):
    """The same rows, as if a policy some steps away had sampled them."""
    torch.manual_seed(5)
    noise = by * torch.randn_like(rollouts.mask) * rollouts.mask
    return type(rollouts)(**{**vars(rollouts), "old_logprobs": rollouts.old_logprobs + noise})


def by_hand(name, logprobs, batch, rewards):
    """The loss written out, row by row and token by token, with a clip of 0.1 and 0.15 and one of the sapo taus."""
    size, rows = rewards.shape[1], rewards.flatten().tolist()
    lengths = [int(n) for n in batch.mask.sum(dim=1)]
    centred, advantages = [], []
    for b, reward in enumerate(rows):
        group = rows[b // size * size : (b // size + 1) * size]
        mean = sum(group) / size
        spread = math.sqrt(sum((r - mean) ** 2 for r in group) / (size - 1)) + 1e-4
        centred.append(reward - mean)
        others = (sum(group) - reward) / (size - 1)
        advantage = {"rloo": reward - others, "maxrl": (reward - mean) / mean if mean else 0.0}
        advantages.append(advantage.get(name, reward - mean if name == "dr_grpo" else (reward - mean) / spread))
    if name == "reinforce_pp":
        tokens = [c for c, n in zip(centred, lengths, strict=True) for _ in range(n)]
        mean = sum(tokens) / len(tokens)
        std = math.sqrt(sum((c - mean) ** 2 for c in tokens) / (len(tokens) - 1))
        advantages = [(c - mean) / std for c in centred]
    terms = []
    for b, n in enumerate(lengths):
        a, new, old = advantages[b], logprobs[b, :n], batch.old_logprobs[b, :n]
        ratio = torch.exp(new - old)
        if name == "rloo":
            ratio = torch.exp((new - old).sum()).expand(n)
        if name == "gspo":
            ratio = torch.exp((new - old).mean()).expand(n)
        if name == "cispo":
            terms.append(-torch.clamp(ratio, max=1.15).detach() * a * new)
        elif name == "sapo":
            tau = 1.0 if a > 0 else 1.05
            terms.append(-a * 4 / tau * torch.sigmoid(tau * (ratio - 1)))
        else:
            terms.append(-torch.minimum(ratio * a, ratio.clamp(0.9, 1.15) * a))
    if name in ("rloo", "gspo", "sapo"):
        return sum(term.mean() for term in terms) / len(terms)
    return sum(term.sum() for term in terms) / (len(terms) * LONGEST if name == "dr_grpo" else sum(lengths))


@pytest.mark.parametrize("name", LATER)
def test_an_update_is_its_formula(name, policy, rollouts, rewards):
    batch = moved(rollouts)
    clip = {"sapo": {}, "cispo": {"clip_high": 0.15}}.get(name, {"clip_low": 0.1, "clip_high": 0.15})
    got, metrics = found(name, policy, batch, rewards, **clip)
    expected = flat(by_hand(name, score(policy, batch), batch, rewards), policy)
    assert float(expected.abs().max()) > 1e-3
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-6)
    assert metrics["old_kl"] > 0 and ("clip_fraction" in metrics) == (name != "sapo")


@pytest.mark.parametrize("name", LATER)
def test_a_kl_term_is_grpos(name, policy, other_policy, rollouts, rewards):
    batch = moved(rollouts)
    without, _ = found(name, policy, batch, rewards)
    got, _ = found(name, policy, batch, rewards, other_policy, beta=0.3)
    with torch.no_grad():
        reference = score(other_policy, batch)
    how = settings(name).aggregation
    expected = flat(aggregate(0.3 * kl_k3(score(policy, batch), reference), batch.mask, how, LONGEST), policy)
    torch.testing.assert_close(got - without, expected, rtol=1e-3, atol=2e-5)
    assert settings(name, beta=0.3).uses_reference and not settings(name).uses_reference


@pytest.mark.parametrize("name", LATER)
def test_equal_rewards_teach_nothing(name, policy, rollouts):
    loss, _ = next(LATER[name].update(Models(policy), rollouts, torch.full((3, 4), 0.3), settings(name)))
    assert not loss.requires_grad


def test_where_nothing_has_moved_five_of_them_are_one(policy, rollouts, rewards):
    """On fresh samples the clip, the weight and the gate do nothing: what is left is how a batch is averaged."""
    same = {"aggregation": "token_mean"}
    first, _ = found("dapo", policy, rollouts, rewards, **same)
    for name in ("cispo", "sapo"):
        torch.testing.assert_close(found(name, policy, rollouts, rewards, **same)[0], first, rtol=1e-4, atol=1e-6)
    same = {"aggregation": "sequence_mean"}
    first, _ = found("dapo", policy, rollouts, rewards, **same)
    for name in ("gspo", "sapo"):
        torch.testing.assert_close(found(name, policy, rollouts, rewards, **same)[0], first, rtol=1e-4, atol=1e-6)


def test_gspos_clip_counts_answers(policy, rollouts):
    batch, rewards = moved(rollouts), torch.tensor([[1.0, 0.0, 0.0, 1.0]] * 3)  # a dead group would count as unmoved
    _, metrics = found("gspo", policy, batch, rewards, clip_low=0.02, clip_high=0.03)
    ratio = formulas.sequence_ratio(score(policy, batch), batch.old_logprobs, batch.mask)
    outside = ((ratio < 0.98) | (ratio > 1.03)).float()
    share = float((outside * batch.mask.sum(dim=1)).sum() / batch.mask.sum())
    assert metrics["clip_fraction"] == pytest.approx(share) and 0 < share < 1


def test_an_equal_group_is_taught_by_reinforce_pp_alone(monkeypatch, policy, rollouts, rewards):
    """Its batch is whitened over tokens: where right answers are longer or shorter, dead groups are no longer 0."""
    lengths = rollouts.mask.sum(dim=1)
    centred = (rewards - rewards.mean(dim=1, keepdim=True)).flatten()
    assert abs(float((centred * lengths).sum())) > 0.1  # the mean over tokens is not 0
    for module, some in ((reinforce_pp, True), (maxrl, False), (rloo, False)):
        asked = []

        def noting(policy, batch, temperature, needed, asked=asked):
            asked.append(needed)
            return score(policy, batch, temperature, needed)

        monkeypatch.setattr(module, "score", noting)
        name = module.__name__.rpartition(".")[2]
        next(module.update(Models(policy), rollouts, rewards, settings(name)))
        assert asked[0].view(3, 4).any(dim=1).tolist() == [True, some, True]


def test_entries_and_settings():
    labels = [a.label for a in (*ALGORITHMS.values(), *LATER.values())]
    assert len(set(labels)) == len(labels) and not ALGORITHMS.keys() & LATER.keys()
    for entry in LATER.values():
        assert entry.Settings().smallest_group == 2
    assert LATER["dr_grpo"].update is ALGORITHMS["grpo"].update is LATER["dapo"].update
    changed = {"dr_grpo": {"scale": "none", "aggregation": "fixed_length"}, "dapo": {"clip_high": 0.28}}
    for name, differs in changed.items():
        mine, grpo = vars(LATER[name].Settings()), vars(GRPO())
        assert {key: value for key, value in mine.items() if value != grpo[key]} == differs
    for name in ("rloo", "reinforce_pp", "maxrl"):
        with pytest.raises(InputError, match="scale"):
            LATER[name].Settings(scale="std")


# Dynamic sampling and the overlong penalty ------------------------------------------------------------------------


def test_batches_below_each_other_are_scored_as_before(policy, tokenizer):
    torch.manual_seed(3)
    parts = [sample(policy, tokenizer, ["1+2=", "3+4+5="], 2, 4), sample(policy, tokenizer, ["9+9+9+9="], 2, 9)]
    whole = joined(parts)
    assert len(whole) == 6 and whole.tokens == sum(part.tokens for part in parts)
    assert whole.texts(tokenizer) == [text for part in parts for text in part.texts(tokenizer)]
    logprobs = score(policy, whole)
    torch.testing.assert_close(logprobs, whole.old_logprobs, rtol=1e-4, atol=1e-4)


@dataclass
class Asked:
    prompt: str


class Questions:
    """A task of one question, whose groups are mixed as a list says."""

    def __init__(self, mixed):
        self.mixed, self.max_new_tokens = list(mixed), 6

    def sample(self, n, generator):
        return [Asked("1+2=") for _ in range(n)]

    def reward(self, completions, problems):
        size = len(completions) // len(problems)
        return torch.stack([torch.arange(size) % 2.0 * self.mixed.pop(0) for _ in problems])

    def thinks(self, text):
        return False


def run_dynamic(policy, tokenizer, mixed, steps=1):
    learnt = []

    def update(models, rollouts, rewards, config):
        learnt.append((rollouts, rewards))
        yield from ()

    config = DAPO(prompts=2, group_size=4, max_new_tokens=6)
    spy = Algorithm("spy", DAPO, update)
    how = {"steps": steps, "progress": False, "reference": False, "kind": DynamicSampling}
    return train(policy, tokenizer, Questions(mixed), spy, config, **how), learnt


def test_dynamic_sampling_fills_the_batch_and_counts_all_it_drew(policy, tokenizer):
    torch.manual_seed(0)
    trainer, learnt = run_dynamic(policy, tokenizer, [0, 1, 0, 0, 1, 1])
    ((rollouts, rewards),) = learnt
    assert rewards.tolist() == [[0, 1, 0, 1]] * 2 and len(rollouts) == 8
    (row,) = trainer.history
    assert row["sampled"] == 3 and row["mixed_groups"] == 0.5
    assert trainer.tokens == row["tokens"] > rollouts.tokens
    # The same three batches, drawn again from the seed that train() sets.
    records.seed_everything(0)
    drawn = [sample(policy, tokenizer, ["1+2="] * 2, 4, 6, 1.0) for _ in range(3)]
    assert trainer.tokens == sum(batch.tokens for batch in drawn)
    texts = [text for batch in drawn for text in batch.texts(tokenizer)]
    assert rollouts.texts(tokenizer) == texts[4:8] + texts[16:20]  # groups 1 and 4; for group 5 there is no more room


def test_dynamic_sampling_ends_with_what_there_is(policy, tokenizer):
    trainer, learnt = run_dynamic(policy, tokenizer, [0, 0, 0, 1] + [0] * 16)
    assert trainer.history[0]["sampled"] == 10 and learnt[0][1].tolist() == [[0, 1, 0, 1]]
    trainer, learnt = run_dynamic(policy, tokenizer, [0] * 20 + [1, 1], steps=2)
    assert [row["sampled"] for row in trainer.history] == [10, 1] and len(learnt) == 1 and trainer.step == 2


def test_overlong_answers_are_paid_less(tokenizer):
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    paid = Overlong(lambda completions, problems: rewards, tokenizer, 8, 4)(["1234", "123456", "12345678", ""], [0, 1])
    assert paid.tolist() == [[1.0, -0.5], [0.0, 1.0]] and rewards[1, 0] == 1
