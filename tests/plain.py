"""The algorithms restated one token at a time: no batches, no masks, no padding, none of the package's functions.

Slow and long-winded on purpose. What it computes is what the paper's sums say, so the package's vectorised
updates can be compared with it, loss and gradient.
"""

from __future__ import annotations

import statistics

import torch


def rows_of(policy, tokenizer, prompts, rollouts, temperature=1.0, head=None, trunk=None):
    """For each row its log-probs ``[n]`` and, given a value head, its values ``[n]``: one unpadded pass a row.

    Rows stand in prompt order; ``trunk`` is the critic's own, if it has one.
    """
    group_size = len(rollouts) // len(prompts)
    for b in range(len(rollouts)):
        prompt, n = tokenizer(prompts[b // group_size])["input_ids"], int(rollouts.lengths[b])
        ids = torch.tensor([prompt + rollouts.completion_ids[b, :n].tolist()])
        before = slice(len(prompt) - 1, len(prompt) - 1 + n)  # the positions that predict tokens 0 .. n-1
        table = torch.log_softmax(policy(input_ids=ids).logits[0, before] / temperature, dim=-1)
        logprobs = torch.stack([table[t, ids[0, len(prompt) + t]] for t in range(n)])
        if head is None:
            yield logprobs, None
        else:
            yield logprobs, head((trunk or policy.model)(input_ids=ids).last_hidden_state[0, before]).squeeze(-1)


def reduce(rows, how, longest):
    """Rows of token losses to one number."""
    if how == "sequence_mean":
        return sum(sum(row) / len(row) for row in rows) / len(rows)
    if how == "token_mean":
        return sum(sum(row) for row in rows) / sum(len(row) for row in rows)
    return sum(sum(row) for row in rows) / (len(rows) * longest)


def surrogate(logprob, old_logprob, advantage, low, high):
    """``-min(ratio A, clip(ratio) A)``, the cases written out."""
    ratio = (logprob - old_logprob).exp()
    if advantage > 0 and ratio > 1 + high:
        return torch.tensor(-(1 + high) * advantage)
    if advantage < 0 and ratio < 1 - low:
        return torch.tensor(-(1 - low) * advantage)
    return -ratio * advantage


def grpo(new, old, reference, rewards, config):
    """GRPO's loss. ``new``, ``old``, ``reference``: rows of log-probs; ``rewards``: a list of groups."""
    rows = []
    for b, logprobs in enumerate(new):
        group = rewards[b // len(rewards[0])]
        advantage = group[b % len(group)] - statistics.mean(group)
        if config.scale == "std":
            advantage /= statistics.stdev(group) + 1e-4
        elif config.scale == "batch":
            advantage /= statistics.stdev([r for g in rewards for r in g]) + 1e-4
        row = []
        for t, logprob in enumerate(logprobs):
            if config.ratio == "token":
                loss = surrogate(logprob, old[b][t], advantage, config.clip_low, config.clip_high)
            else:
                loss = surrogate(logprobs.sum(), sum(old[b]), advantage, config.clip_low, config.clip_high)
            if config.beta:
                odds = (reference[b][t] - logprob).exp()
                loss = loss + config.beta * (odds - odds.log() - 1)
            row.append(loss)
        rows.append(row)
    return reduce(rows, config.aggregation, config.max_new_tokens)


def ppo_targets(old, reference, old_values, scores, config):
    """Advantages and returns of each row, in Python floats: GAE over KL-penalised rewards."""
    advantages, returns = [], []
    for b, score in enumerate(scores):
        n, values = len(old[b]), [*old_values[b].tolist(), 0.0]
        rewards = [-config.kl_coefficient * float(old[b][t] - reference[b][t]) for t in range(n)]
        rewards[n - 1] += score
        delta = [rewards[t] + config.gamma * values[t + 1] - values[t] for t in range(n)]
        decay = config.gamma * config.lam
        row = [sum(decay ** (k - t) * delta[k] for k in range(t, n)) for t in range(n)]
        advantages.append(row)
        returns.append([a + v for a, v in zip(row, values, strict=False)])
    return advantages, returns


def ppo(new, values, old, old_values, advantages, returns, config):
    """PPO's loss, critic included."""
    rows = []
    for b, logprobs in enumerate(new):
        row = []
        for t, logprob in enumerate(logprobs):
            loss = surrogate(logprob, old[b][t], advantages[b][t], config.clip_low, config.clip_high)
            value, before, target = values[b][t], float(old_values[b][t]), returns[b][t]
            error = (value - target) ** 2
            move = float(value.detach()) - before
            if abs(move) > config.value_clip:
                near = before + (config.value_clip if move > 0 else -config.value_clip)
                if (near - target) ** 2 > float(error.detach()):
                    error = torch.tensor((near - target) ** 2)
            row.append(loss + config.value_coefficient * error / 2)
        rows.append(row)
    return reduce(rows, config.aggregation, config.max_new_tokens)
