"""Answers to chapter 03's exercises, right ones in many styles and wrong ones as learners write them."""

import numpy as np
import torch

# reinforce_loss --------------------------------------------------------------------------------------------------


def loops(logprobs, rewards, mask):
    total = 0.0
    for b in range(len(rewards)):
        for t in range(logprobs.shape[1]):
            if mask[b, t]:
                total = total - rewards[b] * logprobs[b, t]
    return total / len(rewards)


def einsum(logprobs, rewards, mask):
    return -torch.einsum("bt,bt,b->", logprobs, mask.to(logprobs.dtype), rewards) / logprobs.shape[0]


def where(logprobs, rewards, mask):
    advantages = rewards.detach().unsqueeze(1).expand_as(logprobs)
    return torch.where(mask > 0, -advantages * logprobs, torch.zeros(())).sum(-1).mean(0)


def double(logprobs, rewards, mask):
    return -(rewards.double() @ (logprobs.double() * mask.double()).sum(1)) / rewards.numel()


def filled_in_place(logprobs, rewards, mask):
    kept = logprobs.clone()
    kept.masked_fill_(~mask.bool(), 0.0)
    return (-kept.sum(1).mul(rewards)).mean()


def one_element(logprobs, rewards, mask):
    return -(rewards[None] @ (logprobs * mask).sum(1, keepdim=True)).squeeze(1) / len(rewards)


def as_ascent(logprobs, rewards, mask):
    return (logprobs * mask).sum(dim=1).mul(rewards).mean()


def sft_like(logprobs, rewards, mask):
    loss = 0
    for row, m in zip(logprobs, mask, strict=True):
        loss += -(row * m).sum()
    return loss / len(logprobs)


def no_mask(logprobs, rewards, mask):
    return torch.mean(-rewards * torch.sum(logprobs, dim=-1))


def token_mean_per_row(logprobs, rewards, mask):
    per_row = (logprobs * mask).sum(-1) / mask.sum(-1)
    return -torch.mean(per_row * rewards)


def torch_mean(logprobs, rewards, mask):
    return -(logprobs * mask * rewards[:, None]).mean()


def batch_tokens(logprobs, rewards, mask):
    weighted = -logprobs * rewards.view(-1, 1)
    return (weighted * mask).sum() / mask.sum()


def summed(logprobs, rewards, mask):
    return -torch.dot(rewards, (logprobs * mask).sum(1))


def with_baseline(logprobs, rewards, mask):
    advantages = rewards - rewards.mean()
    return -(advantages[:, None] * logprobs * mask).sum(1).mean()


def whitened(logprobs, rewards, mask):
    centred = rewards - rewards.mean()
    spread = ((centred**2).sum() / (len(rewards) - 1)) ** 0.5  # as std(), without its warning for one row
    advantages = centred / (spread + 1e-8)
    return -(advantages * (logprobs * mask).sum(1)).mean()


def probabilities(logprobs, rewards, mask):
    sequence = torch.exp(torch.sum(logprobs * mask, dim=1))
    return -(sequence * rewards).mean()


def mean_times_mean(logprobs, rewards, mask):
    return -rewards.mean() * (logprobs * mask).sum(1).mean()


def accepted_only(logprobs, rewards, mask):
    keep = rewards != 0
    return -(rewards[keep] * (logprobs * mask)[keep].sum(1)).mean()


def weighted_mean(logprobs, rewards, mask):
    weights = rewards / rewards.sum()
    return -(weights * (logprobs * mask).sum(1)).sum()


def final_token(logprobs, rewards, mask):
    last = mask.sum(1).long() - 1
    return -(logprobs[torch.arange(len(rewards)), last] * rewards).mean()


def item(logprobs, rewards, mask):
    return -(rewards * (logprobs * mask).sum(1)).mean().item()


# leave_one_out_advantages ----------------------------------------------------------------------------------------


def identity_matrix(rewards):
    size = rewards.shape[1]
    others = (torch.ones(size, size) - torch.eye(size)) / (size - 1)
    return rewards - rewards @ others


def by_factor(rewards):
    size = rewards.size(1)
    return (rewards - rewards.mean(1, keepdim=True)) * size / (size - 1)


def nested_loops(rewards):
    out = torch.empty_like(rewards)
    for i, row in enumerate(rewards):
        for j in range(len(row)):
            out[i, j] = row[j] - torch.cat([row[:j], row[j + 1 :]]).mean()
    return out


def with_numpy(rewards):
    r = np.asarray(rewards, dtype=np.float64)
    return r - (r.sum(axis=1, keepdims=True) - r) / (r.shape[1] - 1)


def in_place_on_a_clone(rewards):
    advantages = rewards.clone().double()
    advantages -= (rewards.sum(1).unsqueeze(1) - rewards).div_(rewards.shape[-1] - 1)
    return advantages


def group_mean(rewards):
    return rewards - torch.mean(rewards, dim=1).unsqueeze(-1)


def forgets_to_count(rewards):
    return rewards - (rewards.sum(-1, keepdim=True) - rewards) / rewards.size(-1)


def global_others(rewards):
    flat = rewards.flatten()
    return (flat - (flat.sum() - flat) / (len(flat) - 1)).view_as(rewards)


def columns(rewards):
    return rewards - rewards.mean(0)


def just_the_baseline(rewards):
    total = rewards.sum(dim=1, keepdim=True)
    return (total - rewards) / (rewards.shape[1] - 1)


def upside_down(rewards):
    return (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1) - rewards


def minus_sum(rewards):
    return 2 * rewards - rewards.sum(1, keepdim=True)


def grpo(rewards):
    advantages = by_factor(rewards)
    return advantages / (rewards.std(dim=1, keepdim=True) + 1e-8)


def inverted_factor(rewards):
    size = rewards.size(1)
    return (rewards - rewards.mean(1, keepdim=True)) / (size / (size - 1))


def whole_batch(rewards):
    return rewards - torch.mean(rewards)


def neighbour(rewards):
    return rewards - torch.roll(rewards, shifts=1, dims=-1)


def best_rival(rewards):
    out = torch.zeros_like(rewards)
    for p in range(rewards.shape[0]):
        for i in range(rewards.shape[1]):
            out[p, i] = rewards[p, i] - max(rewards[p, j] for j in range(rewards.shape[1]) if j != i)
    return out


# returns_to_go ---------------------------------------------------------------------------------------------------


def power_matrix(token_rewards, mask, gamma):
    steps = torch.arange(token_rewards.shape[1])
    ahead = steps[None, :] - steps[:, None]
    weights = torch.where(ahead >= 0, gamma ** ahead.clamp(min=0).float(), 0.0)
    return (token_rewards * mask) @ weights.T


def scalar_loops(token_rewards, mask, gamma):
    out = [[0.0] * token_rewards.shape[1] for _ in token_rewards]
    for b in range(len(out)):
        carried = 0.0
        for t in range(len(out[b]) - 1, -1, -1):
            if mask[b, t]:
                carried = float(token_rewards[b, t]) + gamma * carried
            out[b][t] = carried
    return torch.tensor(out)


def stacked(token_rewards, mask, gamma):
    later, columns_ = 0, []
    for reward, real in zip(token_rewards.T.flip(0), mask.T.flip(0), strict=True):
        later = reward * real + gamma * later
        columns_.append(later)
    return torch.stack(columns_[::-1], dim=1)


def loop_one_short(token_rewards, mask, gamma):
    out, running = torch.zeros_like(token_rewards), 0.0
    for t in range(token_rewards.shape[1] - 1, 0, -1):
        running = token_rewards[:, t] * mask[:, t] + gamma * running
        out[:, t] = running
    return out


def guarded_cumsum(token_rewards, mask, gamma):
    powers = gamma ** torch.arange(token_rewards.shape[1])
    return (token_rewards * mask * powers).flip(1).cumsum(1).flip(1) / powers.clamp(min=1e-30)


def flipped_cumsum(token_rewards, mask, gamma):
    powers = gamma ** torch.arange(token_rewards.shape[1])
    discounted = (token_rewards * mask * powers).flip(1).cumsum(1).flip(1)
    return discounted / powers


def numpy_backwards(token_rewards, mask, gamma):
    r = (token_rewards * mask).numpy().copy()
    for t in range(r.shape[1] - 2, -1, -1):
        r[:, t] += gamma * r[:, t + 1]
    return r


def prefix_sums(token_rewards, mask, gamma):
    return torch.cumsum(token_rewards * mask, dim=1)


def forward_recursion(token_rewards, mask, gamma):
    out = torch.zeros_like(token_rewards)
    running = torch.zeros(len(token_rewards))
    for t in range(token_rewards.shape[1]):
        running = token_rewards[:, t] * mask[:, t] + gamma * running
        out[:, t] = running
    return out


def broadcast_total(token_rewards, mask, gamma):
    return (token_rewards * mask).sum(1, keepdim=True) * torch.ones_like(mask)


def broadcast_discounted(token_rewards, mask, gamma):
    weights = torch.tensor([gamma**t for t in range(token_rewards.shape[1])])
    return ((token_rewards * mask) @ weights)[:, None].repeat(1, token_rewards.shape[1])


def undiscounted(token_rewards, mask, gamma):
    return (token_rewards * mask).flip(-1).cumsum(-1).flip(-1)


def unmasked(token_rewards, mask, gamma):
    out = token_rewards.clone()
    for t in range(out.shape[1] - 2, -1, -1):
        out[:, t] += gamma * out[:, t + 1]
    return out * mask


def excludes_own(token_rewards, mask, gamma):
    return power_matrix(token_rewards, mask, gamma) - token_rewards * mask


def from_next(token_rewards, mask, gamma):
    out = torch.zeros_like(token_rewards)
    later = torch.zeros(len(token_rewards))
    for t in reversed(range(token_rewards.shape[1])):
        out[:, t] = later
        later = token_rewards[:, t] * mask[:, t] + gamma * later
    return out


def absolute_discount(token_rewards, mask, gamma):
    powers = gamma ** torch.arange(token_rewards.shape[1]).float()
    return torch.flip(torch.cumsum(torch.flip(token_rewards * mask * powers, [1]), 1), [1])


def discounted_everything(token_rewards, mask, gamma):
    later, out = torch.zeros(len(token_rewards)), torch.zeros_like(token_rewards)
    for t in reversed(range(token_rewards.shape[1])):
        later = gamma * (token_rewards[:, t] * mask[:, t] + later)
        out[:, t] = later
    return out


def reward_on_the_right(token_rewards, mask, gamma):
    r = token_rewards * mask
    out = r.clone()
    for t in range(r.shape[1] - 1):
        out[:, t] = r[:, t] + gamma * r[:, t + 1]
    return out


def forgets_to_flip_back(token_rewards, mask, gamma):
    out, later = [], 0
    for t in reversed(range(token_rewards.shape[1])):
        later = token_rewards[:, t] * mask[:, t] + gamma * later
        out.append(later)
    return torch.stack(out, 1)


def rows_for_time(token_rewards, mask, gamma):
    out, later = torch.zeros_like(token_rewards), 0.0
    for t in reversed(range(len(token_rewards))):
        later = token_rewards[t] * mask[t] + gamma * later
        out[t] = later
    return out


def carries_over(token_rewards, mask, gamma):
    out, later = torch.zeros_like(token_rewards), 0.0
    for b in reversed(range(len(token_rewards))):
        for t in reversed(range(token_rewards.shape[1])):
            later = token_rewards[b, t] * mask[b, t] + gamma * later
            out[b, t] = later
    return out


def by_value(rewards):
    out = torch.zeros_like(rewards)
    for p, row in enumerate(rewards):
        for i, r in enumerate(row):
            out[p, i] = r - row[row != r].mean()
    return out


def baseline_of_rest(rewards):
    columns = []
    for i in range(rewards.shape[1]):
        rest = torch.cat([rewards[:, :i], rewards[:, i + 1 :]], dim=1)
        columns.append(rewards[:, i] - rest.mean(dim=1))
    return torch.stack(columns, dim=1)


def list_from_the_end(token_rewards, mask, gamma):
    out, later = [], 0.0
    for r, m in zip(token_rewards.T.flip(0), mask.T.flip(0), strict=True):
        later = torch.where(m.bool(), r + gamma * later, 0.0)
        out.insert(0, later)
    return torch.stack(out, dim=1).masked_fill(mask == 0, 123.0)


RIGHT = {
    "reinforce_loss": [loops, einsum, where, double, filled_in_place, one_element],
    "leave_one_out_advantages": [
        torch.no_grad()(baseline_of_rest),
        identity_matrix,
        by_factor,
        nested_loops,
        with_numpy,
        in_place_on_a_clone,
    ],
    "returns_to_go": [
        list_from_the_end,
        power_matrix,
        scalar_loops,
        stacked,
        numpy_backwards,
        flipped_cumsum,
        guarded_cumsum,
    ],
}

WRONG = {
    "reinforce_loss": {
        "drops_negative_rewards": [lambda lp, r, m: -(r.clamp(min=0) * (lp * m).sum(1)).mean()],
        "selects_by_reward": [lambda lp, r, m: -(lp * m).sum(1)[r > 0].mean()],
        "selects_and_averages_all": [lambda lp, r, m: -((r > 0) * (lp * m).sum(1)).mean()],
        "subtracts_leave_one_out_baseline": [
            lambda lp, r, m: -((r - (r.sum() - r) / max(len(r) - 1, 1)) * (lp * m).sum(1)).mean()
        ],
        "mask_upside_down": [lambda lp, r, m: -(r * lp.masked_fill(m != 0, 0).sum(1)).mean()],
        "fills_with_infinity": [lambda lp, r, m: -(r * lp.masked_fill(m == 0, -torch.inf).sum(1)).mean()],
        "forgot_minus": [as_ascent],
        "forgot_rewards": [sft_like],
        "forgot_mask": [no_mask],
        "mean_over_tokens_of_a_row": [token_mean_per_row],
        "mean_over_positions": [torch_mean],
        "mean_over_all_tokens": [batch_tokens],
        "sum_over_rows": [summed],
        "subtracts_baseline": [with_baseline],
        "normalises_rewards": [whitened],
        "probability_for_logprob": [probabilities],
        "mean_of_each_factor": [mean_times_mean],
        "mean_over_rewarded_rows": [accepted_only],
        "divides_by_rewards": [weighted_mean],
        "last_token_only": [final_token],
        "last_column_only": [lambda lp, r, m: (-lp[:, -1] * r).sum() / len(r)],
        "token_probabilities": [lambda lp, r, m: -(r * (lp.exp() * m).sum(1)).mean()],
        "log_softmax_again": [lambda lp, r, m: -(r * (torch.log_softmax(lp, -1) * m).sum(1)).mean()],
        "detached": [item],
        "raises": [lambda lp, r, m: -(r * lp * m).sum(1).mean()],
        "wrong_shape": [lambda lp, r, m: -(r * (lp * m).sum(1))],
        "sign_flipped_and_more": [lambda lp, r, m: (r * (lp * m).sum(1)).sum()],
    },
    "leave_one_out_advantages": {
        "leaves_out_equal_rewards": [by_value],
        "counts_the_prompts": [lambda r: r - (r.sum(1, keepdim=True) - r) / max(r.shape[0] - 1, 1)],
        "counts_four": [lambda r: r - (r.sum(1, keepdim=True) - r) / 3],
        "leaves_out_down_the_columns_guarded": [lambda r: r - (r.sum(0) - r) / max(len(r) - 1, 1)],
        "includes_itself": [group_mean],
        "divides_by_group_size": [forgets_to_count],
        "mean_over_batch": [global_others],
        "mean_over_prompts": [columns],
        "leaves_out_down_the_columns": [lambda r: r - (r.sum(0) - r) / (len(r) - 1)],
        "returns_the_baseline": [just_the_baseline],
        "sign_of_advantage": [upside_down],
        "sum_for_mean": [minus_sum],
        "divides_by_std": [grpo],
        "wrong_way_round": [inverted_factor],
        "batch_mean": [whole_batch],
        "one_other_answer": [neighbour],
        "the_next_answer": [lambda r: r - torch.cat([r[:, 1:], r[:, :1]], dim=1)],
        "own_reward_in_the_sum": [lambda r: r - r.sum(1, keepdim=True) / (r.shape[1] - 1)],
        "best_of_the_group": [lambda r: r - r.max(dim=1, keepdim=True).values],
        "no_baseline": [lambda r: r.clone()],
        "best_of_the_others": [best_rival],
        "group_relative": [lambda r: (r - r.mean(1, keepdim=True)) / (r.std(1, keepdim=True) + 1e-6)],
        "wrong_shape": [lambda r: r.mean(1)],
    },
    "returns_to_go": {
        "stops_before_the_first_token": [loop_one_short],
        "gamma_of_0_ignored": [lambda r, m, g: list_from_the_end(r, m, g or 1.0)],
        "gamma_twice": [lambda r, m, g: stacked(r, m, g * g)],
        "standardises_padding_too": [lambda r, m, g: ((x := stacked(r, m, g)) - x.mean()) / (x.std() + 1e-8)],
        "standardises": [lambda r, m, g: ((x := stacked(r, m, g)) - x[m.bool()].mean()) / (x[m.bool()].std() + 1e-8)],
        "mask_upside_down": [lambda r, m, g: stacked(r, 1 - m, g)],
        "sum_up_to_here": [prefix_sums],
        "accumulates_forward": [forward_recursion],
        "whole_sum_everywhere": [broadcast_total],
        "whole_return_everywhere": [broadcast_discounted],
        "forgot_own_reward": [excludes_own],
        "shifted_by_one": [from_next],
        "forgot_gamma": [undiscounted],
        "forgot_mask": [unmasked],
        "discounts_from_the_start": [absolute_discount],
        "discounts_own_reward": [discounted_everything],
        "only_next_reward": [reward_on_the_right],
        "no_accumulation": [lambda r, m, g: r],
        "gamma_once": [lambda r, m, g: r * m + g * ((r * m).sum(1, keepdim=True) - (r * m).cumsum(1))],
        "down_the_columns": [rows_for_time],
        "wrong_shape": [lambda r, m, g: (r * m).sum(1)],
        "still_reversed": [forgets_to_flip_back],
        "runs_through_rows": [carries_over],
        "discounts_from_the_end": [
            lambda r, m, g: (
                (r * m * torch.tensor([g ** (r.shape[1] - 1 - t) for t in range(r.shape[1])])).flip(1).cumsum(1).flip(1)
            )
        ],
    },
}
