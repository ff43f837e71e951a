"""Answers to chapter 12's exercises as learners write them: right ones in many styles, wrong ones by diagnosis."""

import torch
import torch.nn.functional as F

# asymmetric_clipped_loss -------------------------------------------------------------------------------------------


def acl_with(logprobs, old_logprobs, advantages, low, high):
    ratio = torch.exp(logprobs - old_logprobs)
    return -torch.min(ratio * advantages, torch.clamp(ratio, low, high) * advantages)


def acl_plain(logprobs, old_logprobs, advantages, clip_low, clip_high):
    return acl_with(logprobs, old_logprobs, advantages, 1 - clip_low, 1 + clip_high)


def acl_by_sign(logprobs, old_logprobs, advantages, clip_low, clip_high):
    ratio = (logprobs - old_logprobs.detach()).exp()
    return -torch.where(advantages >= 0, ratio.clamp(max=1 + clip_high), ratio.clamp(min=1 - clip_low)) * advantages


def acl_max_of_losses(logprobs, old_logprobs, advantages, clip_low, clip_high):
    ratio = torch.exp(logprobs - old_logprobs)
    return torch.maximum(-advantages * ratio, -advantages * ratio.clip(1 - clip_low, 1 + clip_high))


def acl_masked(logprobs, old_logprobs, advantages, clip_low, clip_high):
    ratio = torch.exp(logprobs - old_logprobs)
    up, down = (advantages > 0) & (ratio > 1 + clip_high), (advantages < 0) & (ratio < 1 - clip_low)
    limited = torch.where(up, 1 + clip_high, torch.where(down, 1 - clip_low, ratio))
    return -limited * advantages


def acl_loop(logprobs, old_logprobs, advantages, clip_low, clip_high):
    loss = torch.zeros(logprobs.shape)
    for b in range(logprobs.shape[0]):
        for t in range(logprobs.shape[1]):
            ratio = torch.exp(logprobs[b, t] - old_logprobs[b, t])
            loss[b, t] = -min(ratio * advantages[b, t], ratio.clamp(1 - clip_low, 1 + clip_high) * advantages[b, t])
    return loss


def acl_wrong_number(logprobs, old_logprobs, advantages, clip_low, clip_high):
    eps = torch.where(advantages > 0, clip_low, clip_high)
    ratio = torch.exp(logprobs - old_logprobs)
    return -torch.min(ratio * advantages, torch.maximum(torch.minimum(ratio, 1 + eps), 1 - eps) * advantages)


def acl_product(logprobs, old_logprobs, advantages, clip_low, clip_high):
    surrogate = torch.exp(logprobs - old_logprobs) * advantages
    return -torch.min(surrogate, torch.clamp(surrogate, 1 - clip_low, 1 + clip_high))


def acl_log_range(logprobs, old_logprobs, advantages, clip_low, clip_high):
    difference = logprobs - old_logprobs
    return -torch.min(difference.exp() * advantages, difference.clamp(-clip_low, clip_high).exp() * advantages)


# sequence_ratio ----------------------------------------------------------------------------------------------------


def sr_plain(logprobs, old_logprobs, mask):
    return torch.exp(((logprobs - old_logprobs.detach()) * mask).sum(dim=1) / mask.sum(dim=1))


def sr_attached(logprobs, old_logprobs, mask):
    return torch.exp(((logprobs - old_logprobs) * mask).sum(-1) / mask.sum(-1).clamp(min=1))


def sr_means(logprobs, old_logprobs, mask):
    n = mask.sum(dim=1)
    return torch.exp((logprobs * mask).sum(1) / n - (old_logprobs * mask).sum(1) / n)


def sr_rows(logprobs, old_logprobs, mask):
    return torch.stack(
        [(n[m > 0] - o[m > 0]).mean().exp() for n, o, m in zip(logprobs, old_logprobs, mask, strict=True)]
    )


def sr_nan(logprobs, old_logprobs, mask):
    return (logprobs - old_logprobs).masked_fill(mask == 0, float("nan")).nanmean(dim=1).exp()


def sr_power(logprobs, old_logprobs, mask):
    return ((logprobs - old_logprobs) * mask).sum(dim=1).exp() ** (1 / mask.sum(dim=1))


def sr_with(of, last=torch.exp):
    """The mistake whose log-ratio of rows is given as a function of (log-ratios, mask)."""
    return lambda logprobs, old_logprobs, mask: last(of(logprobs - old_logprobs, mask))


# truncated_weight --------------------------------------------------------------------------------------------------


def tw_plain(logprobs, sampler_logprobs, cap):
    return torch.exp(logprobs - sampler_logprobs).clamp(max=cap).detach()


@torch.no_grad()
def tw_no_grad(logprobs, sampler_logprobs, cap):
    return (logprobs - sampler_logprobs).exp().clip(max=cap)


def tw_minimum(logprobs, sampler_logprobs, cap):
    ratio = torch.exp(logprobs.detach() - sampler_logprobs.detach())
    return torch.minimum(ratio, torch.full_like(ratio, cap))


def tw_where(logprobs, sampler_logprobs, cap):
    with torch.no_grad():
        ratio = logprobs.exp() / sampler_logprobs.exp()
        return torch.where(ratio > cap, torch.tensor(cap), ratio)


def tw_in_logs(logprobs, sampler_logprobs, cap):
    return (logprobs - sampler_logprobs).detach().clamp(max=torch.tensor(cap).log().item()).exp()


def tw_from(of):
    """The mistake that is given as a function of (ratio without gradient, cap)."""
    return lambda logprobs, sampler_logprobs, cap: of(torch.exp(logprobs - sampler_logprobs).detach(), cap)


# overlong_penalty --------------------------------------------------------------------------------------------------


def op_plain(lengths, longest, buffer):
    return ((longest - buffer - lengths) / buffer).clamp(-1, 0)


def op_where(lengths, longest, buffer):
    inside = (longest - buffer - lengths) / buffer
    result = torch.where(lengths <= longest - buffer, torch.zeros(lengths.shape), inside)
    return torch.where(lengths > longest, -torch.ones(lengths.shape), result)


def op_loop(lengths, longest, buffer):
    found = []
    for n in lengths.tolist():
        if n <= longest - buffer:
            found.append(0.0)
        elif n <= longest:
            found.append((longest - buffer - n) / buffer)
        else:
            found.append(-1.0)
    return torch.tensor(found)


def op_relu(lengths, longest, buffer):
    used = F.relu(lengths.float() - (longest - buffer)) / buffer
    return -used.clamp(max=1.0)


def op_min_max(lengths, longest, buffer):
    line = (longest - buffer - lengths.double()) / buffer
    return torch.maximum(torch.minimum(line, torch.zeros_like(line)), -torch.ones_like(line))


def op_hard(lengths, longest, buffer):
    return torch.where(lengths > longest, -1.0, 0.0)


RIGHT = {
    "asymmetric_clipped_loss": [acl_plain, acl_by_sign, acl_max_of_losses, acl_masked, acl_loop],
    "sequence_ratio": [sr_plain, sr_means, sr_rows, sr_nan],
    "truncated_weight": [tw_plain, tw_no_grad, tw_minimum, tw_where, tw_in_logs],
    "overlong_penalty": [op_plain, op_where, op_loop, op_relu, op_min_max],
}
WRONG = {
    "asymmetric_clipped_loss": {
        "ends_swapped": [lambda n, o, a, low, high: acl_with(n, o, a, 1 - high, 1 + low), acl_wrong_number],
        "low_for_both": [lambda n, o, a, low, high: acl_with(n, o, a, 1 - low, 1 + low)],
        "high_for_both": [lambda n, o, a, low, high: acl_with(n, o, a, 1 - high, 1 + high)],
        "forgot_minus": [lambda n, o, a, low, high: -acl_plain(n, o, a, low, high)],
        "max_for_min": [
            lambda n, o, a, low, high: torch.min(-(n - o).exp() * a, -(n - o).exp().clamp(1 - low, 1 + high) * a)
        ],
        "max_for_negative": [
            lambda n, o, a, low, high: -torch.min((n - o).exp(), (n - o).exp().clamp(1 - low, 1 + high)) * a
        ],
        "clip_only": [lambda n, o, a, low, high: -(n - o).exp().clamp(1 - low, 1 + high) * a],
        "no_clip": [lambda n, o, a, low, high: -(n - o).exp() * a],
        "no_ratio": [lambda n, o, a, low, high: -a * n],
        "only_upper_end": [lambda n, o, a, low, high: acl_with(n, o, a, 0, 1 + high)],
        "only_lower_end": [lambda n, o, a, low, high: acl_with(n, o, a, 1 - low, 1e9)],
        "numbers_as_ends": [lambda n, o, a, low, high: acl_with(n, o, a, low, high)],
        "around_zero": [lambda n, o, a, low, high: acl_with(n, o, a, -low, high)],
        "clips_log_ratio": [acl_log_range],
        "log_ratio": [lambda n, o, a, low, high: -torch.min((n - o) * a, (n - o).clamp(1 - low, 1 + high) * a)],
        "upside_down": [lambda n, o, a, low, high: acl_with(o, n, a, 1 - low, 1 + high)],
        "clips_product": [acl_product],
        "hard_coded": [lambda n, o, a, low, high: acl_with(n, o, a, 0.8, 1.28)],
        "zero_outside": [
            lambda n, o, a, low, high: -(n - o).exp() * a * ((n - o).exp() >= 1 - low) * ((n - o).exp() <= 1 + high)
        ],
        "weighs_logprobs": [lambda n, o, a, low, high: -(n - o).exp().clamp(1 - low, 1 + high).detach() * a * n],
        "sequence_ratio": [
            lambda n, o, a, low, high: acl_plain(
                n.mean(1, keepdim=True).expand_as(n), o.mean(1, keepdim=True).expand_as(o), a, low, high
            )
        ],
        "averages": [lambda n, o, a, low, high: acl_plain(n, o, a, low, high).mean()],
        "sums": [lambda n, o, a, low, high: acl_plain(n, o, a, low, high).sum()],
    },
    "sequence_ratio": {
        "product": [sr_with(lambda d, m: (d * m).sum(1))],
        "product_with_padding": [sr_with(lambda d, m: d.sum(1))],
        "arithmetic_mean": [lambda n, o, m: ((n - o).exp() * m).sum(1) / m.sum(1)],
        "arithmetic_mean_with_padding": [lambda n, o, m: (n - o).exp().mean(dim=-1)],
        "forgot_mask": [sr_with(lambda d, m: d.mean(1))],
        "counts_padding": [sr_with(lambda d, m: (d * m).mean(dim=1))],
        "masks_the_count_only": [sr_with(lambda d, m: d.sum(1) / m.sum(1))],
        "upside_down": [lambda n, o, m: sr_attached(o, n, m), lambda n, o, m: 1 / sr_plain(n, o, m)],
        "forgot_exp": [sr_with(lambda d, m: (d * m).sum(1) / m.sum(1), lambda x: x)],
        "divides_after_exp": [lambda n, o, m: ((n - o) * m).sum(1).exp() / m.sum(1)],
        "one_for_the_batch": [sr_with(lambda d, m: (d * m).sum() / m.sum())],
        "one_for_the_batch_in_every_row": [
            lambda n, o, m: (((n - o) * m).sum() / m.sum()).exp().repeat(n.shape[0]),
        ],
        "on_each_token": [lambda n, o, m: sr_plain(n, o, m).unsqueeze(1).repeat(1, n.shape[1])],
        "each_tokens_own": [lambda n, o, m: (n - o).exp()],
        "of_mean_probabilities": [lambda n, o, m: (n.exp() * m).sum(1) / (o.exp() * m).sum(1)],
        "quotient_of_means": [lambda n, o, m: (n * m).sum(1) / (o * m).sum(1)],
        "square_root_of_length": [sr_with(lambda d, m: (d * m).sum(1) / m.sum(1) ** 0.5)],
    },
    "truncated_weight": {
        "keeps_gradient": [lambda n, s, cap: (n - s).exp().clamp(max=cap)],
        "upside_down": [lambda n, s, cap: tw_plain(s, n, cap)],
        "upside_down_with_gradient": [lambda n, s, cap: (s - n).exp().clamp(max=cap)],
        "max_for_min": [tw_from(lambda r, cap: r.clamp(min=cap))],
        "no_cap": [tw_from(lambda r, cap: r)],
        "masks": [tw_from(lambda r, cap: r * (r <= cap))],
        "one_above_the_cap": [tw_from(lambda r, cap: torch.where(r > cap, torch.ones_like(r), r))],
        "clips_below_too": [tw_from(lambda r, cap: r.clamp(min=1 / cap).clamp(max=cap))],
        "never_below_one": [tw_from(lambda r, cap: r.clamp(min=1).clamp(max=cap))],
        "distance_from_one": [tw_from(lambda r, cap: torch.clamp(r, 0, 1 + cap))],
        "clip_around_one": [tw_from(lambda r, cap: torch.clamp(r, 1 - cap, 1 + cap))],
        "caps_the_log_ratio": [tw_from(lambda r, cap: r.log().clamp(max=cap).exp())],
        "forgot_exp": [tw_from(lambda r, cap: r.log().clamp(max=cap))],
        "of_the_sequence": [tw_from(lambda r, cap: r.prod(1, keepdim=True).clamp(max=cap).repeat(1, r.shape[1]))],
        "hard_coded": [tw_from(lambda r, cap: r.clamp(max=2))],
        "normalises": [tw_from(lambda r, cap: r.clamp(max=cap) / r.clamp(max=cap).mean())],
        "weighs_logprobs": [lambda n, s, cap: tw_plain(n, s, cap) * n],
    },
    "overlong_penalty": {
        "positive": [lambda n, longest, buffer: ((n - longest + buffer) / buffer).clamp(0, 1)],
        "one_minus": [lambda n, longest, buffer: ((longest - n) / buffer).clamp(0, 1)],
        "never_stops": [lambda n, longest, buffer: -F.relu((n - longest + buffer) / buffer)],
        "rewards_short": [lambda n, longest, buffer: ((longest - buffer - n) / buffer).clamp(min=-1)],
        "no_limits": [lambda n, longest, buffer: (longest - buffer - n) / buffer],
        "starts_at_longest": [lambda n, longest, buffer: ((longest - n) / buffer).clamp(-1, 0)],
        "starts_at_buffer": [lambda n, longest, buffer: ((buffer - n) / (longest - buffer)).clamp(-1, 0)],
        "divides_by_longest": [lambda n, longest, buffer: ((longest - buffer - n) / longest).clamp(-1, 0)],
        "step_at_the_end": [op_hard],
        "step_at_the_last_token": [
            lambda n, longest, buffer: torch.where(n >= longest, -1.0, 0.0),
            lambda n, longest, buffer: -((n - longest + buffer) // buffer).clamp(0, 1).float(),
        ],
        "step_at_the_buffer": [lambda n, longest, buffer: torch.where(n > longest - buffer, -1.0, 0.0)],
        "squares": [lambda n, longest, buffer: -(op_plain(n, longest, buffer) ** 2)],
        "in_tokens": [lambda n, longest, buffer: (longest - buffer - n).clamp(-buffer, 0)],
        "one_token_early": [lambda n, longest, buffer: ((longest - buffer - 1 - n) / buffer).clamp(-1, 0)],
        "mean": [lambda n, longest, buffer: op_plain(n, longest, buffer).mean()],
    },
}
