"""Chapter 04: answers as learners write them."""

import numpy
import torch
import torch.nn.functional as F

# importance_ratio ------------------------------------------------------------------------------------------------


def ratio_loop(logprobs, old_logprobs):
    rows = []
    for new_row, old_row in zip(logprobs, old_logprobs, strict=True):
        rows.append(torch.stack([torch.exp(a - b.item()) for a, b in zip(new_row, old_row, strict=True)]))
    return torch.stack(rows)


def ratio_through_both(logprobs, old_logprobs):
    return (logprobs - old_logprobs).exp()


def ratio_of_probabilities(logprobs, old_logprobs):
    return logprobs.exp() / old_logprobs.detach().exp()


def ratio_in_place(logprobs, old_logprobs):
    result = logprobs.clone()
    result -= old_logprobs
    return result.exp_()


def ratio_double(logprobs, old_logprobs):
    with torch.no_grad():
        old = old_logprobs.double()
    return torch.pow(torch.tensor(numpy.e, dtype=torch.float64), logprobs.double() - old)


def ratio_reciprocal(logprobs, old_logprobs):
    return 1 / torch.exp(old_logprobs - logprobs)


# clipped_policy_loss ---------------------------------------------------------------------------------------------


def clipped_where(logprobs, old_logprobs, advantages, clip_eps):
    ratio = torch.exp(logprobs - old_logprobs)
    limited = torch.where(advantages >= 0, ratio.clamp(max=1 + clip_eps), ratio.clamp(min=1 - clip_eps))
    return -limited * advantages


def clipped_max_of_losses(logprobs, old_logprobs, advantages, clip_eps):
    ratio = (logprobs - old_logprobs).exp()
    loss1 = -advantages * ratio
    loss2 = -advantages * torch.clamp(ratio, 1.0 - clip_eps, 1.0 + clip_eps)
    return torch.max(loss1, loss2)


def clipped_stack(logprobs, old_logprobs, advantages, clip_eps):
    ratio = torch.exp(logprobs - old_logprobs)
    both = torch.stack([ratio, torch.clip(ratio, 1 - clip_eps, 1 + clip_eps)])
    return -(both * advantages.unsqueeze(0)).min(dim=0).values


def clipped_masked(logprobs, old_logprobs, advantages, clip_eps):
    ratio = torch.exp(logprobs - old_logprobs)
    too_far = ((advantages > 0) & (ratio > 1 + clip_eps)) | ((advantages < 0) & (ratio < 1 - clip_eps))
    edge = 1 + torch.sign(advantages) * clip_eps
    return -torch.where(too_far, edge, ratio) * advantages


def clipped_spinning_up(logprobs, old_logprobs, advantages, clip_eps):
    edge = torch.where(advantages > 0, (1 + clip_eps) * advantages, (1 - clip_eps) * advantages)
    return -torch.min(torch.exp(logprobs - old_logprobs) * advantages, edge)


def clipped_loop(logprobs, old_logprobs, advantages, clip_eps):
    loss = torch.zeros(logprobs.shape)
    for b in range(logprobs.shape[0]):
        for t in range(logprobs.shape[1]):
            ratio = torch.exp(logprobs[b, t] - old_logprobs[b, t])
            a = advantages[b, t]
            loss[b, t] = -min(ratio * a, ratio.clamp(1 - clip_eps, 1 + clip_eps) * a)
    return loss


# gae -------------------------------------------------------------------------------------------------------------


def gae_pair(rewards, values, mask, gamma, lam):
    r, v = rewards * mask, values * mask
    following = F.pad(v[:, 1:], (0, 1))
    delta = r + gamma * following - v
    out, running = [], 0
    for t in range(r.shape[1] - 1, -1, -1):
        running = delta[:, t] + gamma * lam * running
        out.insert(0, running)
    advantages = torch.stack(out, dim=1)
    return advantages, advantages + v


def gae_matrix(rewards, values, mask, gamma, lam):
    T = rewards.shape[1]
    m = mask.bool()
    r, v = rewards.masked_fill(~m, 0), values.masked_fill(~m, 0)
    delta = r - v
    delta[:, :-1] += gamma * v[:, 1:]
    distance = torch.arange(T)[:, None] - torch.arange(T)[None, :]
    weights = torch.where(distance >= 0, float(gamma * lam) ** distance.clamp(min=0), 0.0)
    return torch.einsum("bs,st->bt", delta, weights)


def gae_row_by_row(rewards, values, mask, gamma, lam):
    result = torch.zeros_like(rewards)
    for b, n in enumerate(mask.long().sum(dim=1).tolist()):
        later = 0.0
        for t in reversed(range(n)):
            after = values[b, t + 1].item() if t + 1 < n else 0.0
            later = rewards[b, t].item() + gamma * after - values[b, t].item() + gamma * lam * later
            result[b, t] = later
    return result


def gae_numpy(rewards, values, mask, gamma, lam):
    m = mask.numpy().astype(float)
    r, v = rewards.detach().numpy() * m, values.detach().numpy() * m
    v = numpy.concatenate([v, numpy.zeros((len(v), 1))], axis=1)
    advantages, running = numpy.zeros_like(r), 0.0
    for t in range(r.shape[1])[::-1]:
        running = r[:, t] + gamma * v[:, t + 1] - v[:, t] + gamma * lam * running
        advantages[:, t] = running
    return advantages


def gae_trl(rewards, values, mask, gamma, lam):
    """As trainers write it: the mask enters at each step."""
    lastgaelam, reversed_advantages = 0, []
    T = values.shape[1]
    for t in reversed(range(T)):
        going_on = mask[:, t + 1] if t < T - 1 else 0.0
        nextvalues = values[:, t + 1] if t < T - 1 else 0.0
        delta = rewards[:, t] + gamma * nextvalues * going_on - values[:, t]
        lastgaelam = delta + gamma * lam * lastgaelam * going_on
        reversed_advantages.append(lastgaelam)
    return torch.stack(reversed_advantages[::-1], dim=1)


def gae_mix_of_returns(rewards, values, mask, gamma, lam):
    """lambda-returns minus values: other algebra, the same numbers."""
    r, v = (rewards * mask).double(), (values * mask).double()
    target = torch.zeros(len(r), dtype=torch.float64)
    following, columns = torch.zeros_like(target), []
    for t in reversed(range(r.shape[1])):
        target = r[:, t] + gamma * ((1 - lam) * following + lam * target)
        following = v[:, t]
        columns = [target - v[:, t], *columns]
    return torch.stack(columns, 1)


# value_loss ------------------------------------------------------------------------------------------------------


def value_masked(values, old_values, returns, mask, clip):
    clipped = torch.clamp(values, old_values - clip, old_values + clip)
    loss = torch.max((values - returns) ** 2, (clipped - returns) ** 2)
    return 0.5 * (loss * mask).sum() / mask.sum()


def value_without_half(values, old_values, returns, mask, clip):
    clipped = old_values + torch.clip(values - old_values, -clip, clip)
    a, b = F.mse_loss(values, returns, reduction="none"), F.mse_loss(clipped, returns, reduction="none")
    return torch.maximum(a, b)[mask.bool()].mean()


def value_where(values, old_values, returns, mask, clip):
    low, high = old_values - clip, old_values + clip
    clipped = torch.where(values > high, high, torch.where(values < low, low, values))
    a, b = (values - returns).pow(2), (clipped - returns).pow(2)
    return torch.where(a >= b, a, b)[mask > 0].mean() / 2


def value_absolute(values, old_values, returns, mask, clip):
    a = (values - returns).abs()
    b = (old_values + (values - old_values).clamp(-clip, clip) - returns).abs()
    return (torch.maximum(a, b).square() * mask).sum() / mask.sum() / 2


def value_loop(values, old_values, returns, mask, clip):
    total, count = 0.0, 0
    for b in range(mask.shape[0]):
        for t in range(mask.shape[1]):
            if mask[b, t]:
                v, old, target = values[b, t], old_values[b, t], returns[b, t]
                near = old + torch.clamp(v - old, -clip, clip)
                total, count = total + max((v - target) ** 2, (near - target) ** 2) / 2, count + 1
    return total / count


def clipped_by_relu(logprobs, old_logprobs, advantages, clip_eps):
    r, s = torch.exp(logprobs - old_logprobs.detach()), torch.sign(advantages)
    return -(r - s * F.relu(s * (r - 1) - clip_eps)) * advantages


def clipped_dual(n, o, a, e):
    x = clipped_with(n, o, a, 1 - e, 1 + e)
    return torch.where(a < 0, torch.min(x, -3 * a), x)


def gae_lambda_returns(rewards, values, mask, gamma, lam):
    r, v = rewards * mask, values * mask
    returns, later, next_value = torch.zeros_like(v), 0.0, 0.0
    for t in range(v.shape[1])[::-1]:
        later = r[:, t] + gamma * ((1 - lam) * next_value + lam * later)
        returns[:, t], next_value = later, v[:, t]
    return [returns - v, returns]


def gae_one_row(r, v, m, gamma, lam):
    flat = ((r * m).view(1, -1), (v * m).view(1, -1), torch.ones(1, m.numel()))
    return gae_pair(*flat, gamma, lam)[0].view_as(r)


def gae_population(*inputs):
    a, real = gae_pair(*inputs)[0], inputs[2].bool()
    return (a - a[real].mean()) / (a[real].std(correction=0) + 1e-8)


def value_with(error):
    return lambda v, old, ret, m, c: masked_mean(torch.max(error(v, ret), error(old + (v - old).clamp(-c, c), ret)), m)


def value_clip_like_probability_ratio(values, old_values, returns, mask, clip):
    clipped = torch.clamp(values, 1 - clip, 1 + clip)
    return 0.5 * masked_mean(torch.max((values - returns) ** 2, (clipped - returns) ** 2), mask)


def gae_loop_one_short(rewards, values, mask, gamma, lam):
    rewards, values = rewards * mask, values * mask
    out, running = torch.zeros_like(values), torch.zeros(len(values))
    for t in range(values.shape[1] - 1, 0, -1):
        following = values[:, t + 1] if t + 1 < values.shape[1] else 0.0
        running = rewards[:, t] + gamma * following - values[:, t] + gamma * lam * running
        out[:, t] = running
    return out


RIGHT = {
    "importance_ratio": [
        ratio_loop, ratio_through_both, ratio_of_probabilities, ratio_in_place, ratio_double, ratio_reciprocal,
    ],
    "clipped_policy_loss": [
        clipped_by_relu,

        clipped_where, clipped_max_of_losses, clipped_stack, clipped_masked, clipped_spinning_up, clipped_loop,
    ],
    "gae": [
        gae_lambda_returns,
gae_pair, gae_matrix, gae_row_by_row, gae_numpy, gae_trl, gae_mix_of_returns],
    "value_loss": [
        value_with(lambda x, ret: (x - ret).double().abs() ** 2 / 2),
value_masked, value_without_half, value_where, value_absolute, value_loop],
}  # fmt: skip


# wrong answers ---------------------------------------------------------------------------------------------------


def ratio_row(logprobs, old_logprobs):
    sequence = logprobs.sum(-1) - old_logprobs.sum(-1)
    return torch.exp(sequence)


def ratio_row_repeated(logprobs, old_logprobs):
    sequence = torch.exp(logprobs.sum(-1) - old_logprobs.sum(-1))
    return sequence[:, None].repeat(1, logprobs.shape[1])


def ratio_gspo(logprobs, old_logprobs):
    T = logprobs.shape[1]
    difference = (logprobs - old_logprobs).sum(dim=-1) / T
    return torch.exp(difference).unsqueeze(-1) * torch.ones(1, T)


def ratio_detached_new(logprobs, old_logprobs):
    return torch.exp(logprobs.detach() - old_logprobs)


def clipped_with(logprobs, old_logprobs, advantages, low, high):
    ratio = torch.exp(logprobs - old_logprobs)
    return -torch.min(ratio * advantages, torch.clamp(ratio, low, high) * advantages)


def clipped_max_by_sign(logprobs, old_logprobs, advantages, clip_eps):
    ratio = torch.exp(logprobs - old_logprobs)
    a, b = ratio * advantages, torch.clamp(ratio, 1 - clip_eps, 1 + clip_eps) * advantages
    return -torch.where(advantages < 0, torch.max(a, b), torch.min(a, b))


def clipped_min_of_losses(logprobs, old_logprobs, advantages, clip_eps):
    ratio = torch.exp(logprobs - old_logprobs)
    return torch.min(-advantages * ratio, -advantages * ratio.clamp(1 - clip_eps, 1 + clip_eps))


def clipped_product(logprobs, old_logprobs, advantages, clip_eps):
    surrogate = torch.exp(logprobs - old_logprobs) * advantages
    return -torch.min(surrogate, torch.clamp(surrogate, 1 - clip_eps, 1 + clip_eps))


def clipped_log_range(logprobs, old_logprobs, advantages, clip_eps):
    log_ratio = logprobs - old_logprobs
    return -torch.min(log_ratio.exp() * advantages, log_ratio.clamp(-clip_eps, clip_eps).exp() * advantages)


def clipped_old_over_new(logprobs, old_logprobs, advantages, clip_eps):
    return clipped_with(old_logprobs, logprobs, advantages, 1 - clip_eps, 1 + clip_eps)


def clipped_mean(logprobs, old_logprobs, advantages, clip_eps):
    return clipped_with(logprobs, old_logprobs, advantages, 1 - clip_eps, 1 + clip_eps).mean()


def backwards(rewards, values, mask, step):
    """Go from the last column to the first; ``step(t, value after t, running sum) -> running sum``."""
    out, running, after = torch.zeros_like(rewards), torch.zeros(len(rewards)), torch.zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        running = step(t, after, running)
        out[:, t], after = running, values[:, t]
    return out


def gae_no_mask(rewards, values, mask, gamma, lam):
    return backwards(rewards, values, mask, lambda t, after, running: (
        rewards[:, t] + gamma * after - values[:, t] + gamma * lam * running))  # fmt: skip


def gae_masked_late(rewards, values, mask, gamma, lam):
    return gae_no_mask(rewards, values, mask, gamma, lam) * mask


def gae_no_gamma_in_delta(rewards, values, mask, gamma, lam):
    r, v = rewards * mask, values * mask
    return backwards(r, v, mask, lambda t, after, running: r[:, t] + after - v[:, t] + gamma * lam * running)


def gae_no_gamma_in_sum(rewards, values, mask, gamma, lam):
    r, v = rewards * mask, values * mask
    return backwards(r, v, mask, lambda t, after, running: r[:, t] + gamma * after - v[:, t] + lam * running)


def gae_monte_carlo(rewards, values, mask, gamma, lam):
    r, v = rewards * mask, values * mask
    return backwards(r, v, mask, lambda t, after, running: r[:, t] + gamma * running) - v


def gae_deltas(rewards, values, mask, gamma, lam):
    r, v = rewards * mask, values * mask
    return r + gamma * F.pad(v[:, 1:], (0, 1)) - v


def gae_no_bootstrap(rewards, values, mask, gamma, lam):
    error = (rewards - values) * mask
    return backwards(error, values, mask, lambda t, after, running: error[:, t] + gamma * lam * running)


def gae_swapped_pair(rewards, values, mask, gamma, lam):
    advantages, returns = gae_pair(rewards, values, mask, gamma, lam)
    return returns, advantages


def gae_roll(rewards, values, mask, gamma, lam):
    r, v = rewards * mask, values * mask
    delta = r + gamma * torch.roll(v, shifts=-1, dims=1) - v
    return backwards(r, v, mask, lambda t, after, running: delta[:, t] + gamma * lam * running)


def gae_forwards(rewards, values, mask, gamma, lam):
    delta = gae_deltas(rewards, values, mask, gamma, lam)
    out, running = torch.zeros_like(delta), torch.zeros(len(delta))
    for t in range(delta.shape[1]):
        running = delta[:, t] + gamma * lam * running
        out[:, t] = running
    return out


def gae_whitened(rewards, values, mask, gamma, lam):
    advantages = gae_row_by_row(rewards, values, mask, gamma, lam)
    n = mask.sum()
    mean = (advantages * mask).sum() / n
    variance = ((advantages - mean) ** 2 * mask).sum() / (n - 1)
    return (advantages - mean) * torch.rsqrt(variance + 1e-8)


def value_errors(values, old_values, returns, clip):
    clipped = torch.clamp(values, old_values - clip, old_values + clip)
    return torch.square(values - returns), torch.square(clipped - returns)


def masked_mean(x, mask):
    return (x * mask).sum() / mask.sum()


def value_min(values, old_values, returns, mask, clip):
    return 0.5 * masked_mean(torch.min(*value_errors(values, old_values, returns, clip)), mask)


def value_mean_of_all(values, old_values, returns, mask, clip):
    return 0.5 * torch.max(*value_errors(values, old_values, returns, clip)).mean()


def value_rows(values, old_values, returns, mask, clip):
    loss = torch.max(*value_errors(values, old_values, returns, clip)) * mask
    return 0.5 * (loss.sum(1) / mask.sum(1)).mean()


def value_per_token(values, old_values, returns, mask, clip):
    return 0.5 * torch.max(*value_errors(values, old_values, returns, clip)) * mask


def value_clip_like_ratio(values, old_values, returns, mask, clip):
    near = torch.max(torch.min(values, old_values * (1 + clip)), old_values * (1 - clip))
    return 0.5 * masked_mean(torch.max((values - returns) ** 2, (near - returns) ** 2), mask)


WRONG = {
    "importance_ratio": {
        "mean_of_all": [lambda new, old: torch.exp(new - old).mean()],
        "base_two": [lambda new, old: 2 ** (new - old)],
        "cuts_off_the_log_ratio": [lambda new, old: (new - old).clamp(-1, 1).exp()],
        "of_all_tokens_so_far": [lambda new, old: (new.cumsum(1) - old.cumsum(1)).exp()],
        "wrong_value": [lambda new, old: (new - old).exp().clamp(max=10)],
        "upside_down": [lambda new, old: old.exp() / new.exp()],
        "forgot_exp": [lambda new, old: new - old.detach()],
        "divides_logprobs": [lambda new, old: torch.div(new, old)],
        "ratio_per_sequence": [ratio_row_repeated],
        "one_ratio_per_row": [ratio_row],
        "ratio_per_sequence_column": [lambda new, old: torch.exp(new.sum(1, True) - old.sum(1, True))],
        "length_normalised": [ratio_gspo],
        "difference_of_probabilities": [lambda new, old: torch.exp(new) - torch.exp(old)],
        "clips_already": [lambda new, old: torch.clip(torch.exp(new - old), 0.8, 1.2)],
        "softmax_again": [lambda new, old: torch.exp(F.log_softmax(new, dim=1) - F.log_softmax(old, dim=1))],
        "divides_by_itself": [lambda new, old: new.exp() / new.exp().detach()],
        "detached": [ratio_detached_new],
    },
    "clipped_policy_loss": {
        "dual_clip": [clipped_dual],
        "upper_end_of_dapo": [lambda n, o, a, e: clipped_with(n, o, a, 1 - e, 1.28)],
        "clipped_side_detached": [
            lambda n, o, a, e: -torch.min((n - o).exp() * a, (n - o).exp().detach().clamp(1 - e, 1 + e) * a)
        ],
        "forgot_minus": [lambda n, o, a, e: -clipped_with(n, o, a, 1 - e, 1 + e)],
        "max_for_min": [clipped_min_of_losses],
        "max_for_negative": [clipped_max_by_sign],
        "clip_only": [lambda n, o, a, e: -a * (n - o).exp().clamp(1 - e, 1 + e)],
        "no_clip": [lambda n, o, a, e: -a * (n - o).exp()],
        "clips_product": [clipped_product],
        "clip_around_zero": [lambda n, o, a, e: clipped_with(n, o, a, -e, e)],
        "clips_log_ratio": [clipped_log_range],
        "upside_down": [clipped_old_over_new],
        "only_upper_bound": [lambda n, o, a, e: clipped_with(n, o, a, None, 1 + e)],
        "hard_coded_clip": [lambda n, o, a, e: clipped_with(n, o, a, 0.8, 1.2)],
        "averages": [clipped_mean],
        "detached": [lambda n, o, a, e: clipped_with(n, o, a, 1 - e, 1 + e).detach()],
    },
    "gae": {
        "stops_before_the_first_token": [gae_loop_one_short],
        "gamma_of_0_ignored": [lambda r, v, m, g, lam: gae_pair(r, v, m, g or 1.0, lam)],
        "gamma_of_0_taken_for_99": [lambda r, v, m, g, lam: gae_pair(r, v, m, g or 0.99, lam)],
        "runs_through_rows": [gae_one_row],
        "mask_upside_down": [lambda r, v, m, g, lam: gae_pair(r * (1 - m), v * (1 - m), torch.ones_like(m), g, lam)],
        "normalises_population": [gae_population],
        "forgot_mask": [gae_no_mask, gae_masked_late],
        "forgot_gamma_in_delta": [gae_no_gamma_in_delta],
        "forgot_gamma_in_sum": [gae_no_gamma_in_sum],
        "forgot_lam": [gae_monte_carlo],
        "only_td_error": [gae_deltas],
        "forgot_next_value": [gae_no_bootstrap],
        "returns_instead": [gae_swapped_pair, lambda *x: gae_pair(*x)[1]],
        "wraps_around": [gae_roll],
        "sums_from_the_start": [gae_forwards],
        "normalises": [gae_whitened],
        "swaps_gamma_lam": [lambda r, v, m, g, lam: gae_pair(r, v, m, lam, g)],
        "sign_flipped": [lambda *x: -gae_matrix(*x)],
    },
    "value_loss": {
        "plain_mean_squared_error": [lambda v, old, ret, m, c: F.mse_loss(v, ret)],
        "huber": [value_with(lambda x, ret: F.smooth_l1_loss(x, ret, reduction="none"))],
        "adds_old_values_to_returns": [lambda v, old, ret, m, c: value_masked(v, old, ret + old, m, c)],
        "old_value_for_the_unclipped": [
            lambda v, old, ret, m, c: masked_mean(torch.max((old - ret) ** 2, value_errors(v, old, ret, c)[1]), m)
        ],
        "clips_the_squared_error": [lambda v, old, ret, m, c: 0.5 * masked_mean(((v - ret) ** 2).clamp(max=c), m)],
        "mean_of_both": [lambda v, old, ret, m, c: 0.25 * masked_mean(sum(value_errors(v, old, ret, c)), m)],
        "mask_upside_down": [
            lambda v, old, ret, m, c: (
                (torch.max(*value_errors(v, old, ret, c)) * (m == 0)).sum() / (m == 0).sum().clamp(min=1)
            )
        ],
        "mask_upside_down_unguarded": [lambda v, old, ret, m, c: value_masked(v, old, ret, 1 - m, c)],
        "min_for_max": [value_min],
        "no_clip": [
            lambda v, old, ret, m, c: 0.5 * masked_mean((ret - v) ** 2, m),
            lambda v, old, ret, m, c: masked_mean((v - ret) ** 2, m),
        ],
        "clip_only": [lambda v, old, ret, m, c: 0.5 * masked_mean(value_errors(v, old, ret, c)[1], m)],
        "clip_as_ratio": [value_clip_like_ratio],
        "clip_around_one": [value_clip_like_probability_ratio],
        "clip_around_zero": [
            lambda v, old, ret, m, c: 0.5 * masked_mean(torch.max((v - ret) ** 2, (v.clip(-c, c) - ret) ** 2), m)
        ],
        "forgot_mask": [value_mean_of_all],
        "mean_of_rows": [value_rows],
        "not_reduced": [value_per_token],
        "sums": [lambda *x: value_per_token(*x).sum()],
        "divides_by_padding_too": [lambda *x: value_per_token(*x).mean()],
        "divides_by_rows": [lambda *x: value_per_token(*x).sum(dim=1).mean()],
        "compares_with_old": [lambda v, old, ret, m, c: 0.5 * masked_mean((v - old) ** 2, m)],
        "sign_flipped": [lambda v, old, ret, m, c: -value_masked(v, old, ret, m, c)],
    },
}
