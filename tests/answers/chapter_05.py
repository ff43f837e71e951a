"""Answers to chapter 05's exercises as learners write them: right ones in many styles, wrong ones by diagnosis."""

import math

import numpy as np
import torch
import torch.nn.functional as F


# group_relative_advantages ---------------------------------------------------------------------------------------
def adv_plain(rewards):
    mean = rewards.mean(dim=1, keepdim=True)
    std = rewards.std(dim=1, keepdim=True)
    return (rewards - mean) / (std + 1e-8)


def adv_loops(rewards):
    out = torch.zeros(rewards.shape)
    for p in range(rewards.shape[0]):
        group = [float(r) for r in rewards[p]]
        mean = sum(group) / len(group)
        std = math.sqrt(sum((r - mean) ** 2 for r in group) / (len(group) - 1))
        for i, r in enumerate(group):
            out[p, i] = (r - mean) / std if std > 0 else 0.0
    return out


def adv_numpy(rewards):
    r = rewards.numpy()
    return (r - r.mean(1, keepdims=True)) / (r.std(1, ddof=1, keepdims=True) + 1e-6)


def adv_nan_to_num(rewards):
    std, mean = torch.std_mean(rewards.double(), dim=-1, keepdim=True)
    return torch.nan_to_num((rewards - mean) / std)


def adv_in_place_on_a_copy(rewards):
    a = rewards.clone()
    a -= a.mean(1, keepdim=True)
    a /= (a.square().sum(1, keepdim=True) / (a.shape[1] - 1) + 1e-9).sqrt()
    return a


def adv_einsum(rewards):
    G = rewards.shape[1]
    c = rewards - torch.einsum("pg->p", rewards)[:, None] / G
    return c / torch.sqrt(torch.einsum("pg,pg->p", c, c) / (G - 1)).clamp(min=1e-6).unsqueeze(1)


def adv_w_no_eps(rewards):
    m, s = rewards.mean(1).unsqueeze(1), rewards.std(1).unsqueeze(1)
    return (rewards - m) / s


def adv_w_numpy_std(rewards):
    r = rewards.numpy()
    return torch.tensor((r - np.mean(r, axis=1, keepdims=True)) / (np.std(r, axis=1, keepdims=True) + 1e-8))


def adv_w_whole_batch(rewards):
    flat = rewards.view(-1)
    return ((flat - flat.mean()) / (flat.std() + 1e-8)).view(rewards.shape)


def adv_w_dim0(rewards):
    return (rewards - rewards.mean(0)) / (rewards.std(0, unbiased=False) + 1e-4)


def adv_w_only_mean(rewards):
    return rewards - rewards.sum(1, keepdim=True) / rewards.size(1)


def adv_w_var(rewards):
    return (rewards - rewards.mean(-1, keepdim=True)) / (rewards.var(-1, keepdim=True) + 1e-6)


def adv_w_loo(rewards):
    G = rewards.shape[1]
    return rewards - (rewards.sum(1, keepdim=True) - rewards) / (G - 1)


def adv_w_minmax(rewards):
    lo = rewards.min(1, keepdim=True).values
    hi = rewards.max(1, keepdim=True).values
    return (rewards - lo) / (hi - lo + 1e-6)


def adv_w_sign(rewards):
    return (rewards.mean(1, keepdim=True) - rewards) / (rewards.std(1, keepdim=True) + 1e-4)


def adv_w_no_keepdim(rewards):
    return (rewards - rewards.mean(1)) / (rewards.std(1) + 1e-8)


def adv_w_std_no_keepdim(rewards):
    centred = rewards - rewards.mean(dim=-1, keepdim=True)
    return centred / (rewards.std(dim=-1) + 1e-4)


# kl_k3 -----------------------------------------------------------------------------------------------------------
def k3_plain(logprobs, ref_logprobs):
    d = ref_logprobs - logprobs
    return d.exp() - d - 1


def k3_from_ratio(logprobs, ref_logprobs):
    ratio = torch.exp(ref_logprobs.detach() - logprobs)
    return ratio - ratio.log() - 1


def k3_probabilities(logprobs, ref_logprobs):
    return ref_logprobs.exp() / logprobs.exp() - 1 + (logprobs - ref_logprobs)


def k3_loops(logprobs, ref_logprobs):
    rows = []
    for lp, ref in zip(logprobs, ref_logprobs, strict=True):
        rows.append(torch.stack([torch.exp(r - x) - (r - x) - 1 for x, r in zip(lp, ref, strict=True)]))
    return torch.stack(rows)


def k3_expm1_double(logprobs, ref_logprobs):
    minus_d = logprobs.double() - ref_logprobs.double()
    return torch.expm1(-minus_d).add(minus_d)


def k3_w_swapped(logprobs, ref_logprobs):
    log_ratio = logprobs - ref_logprobs
    return log_ratio.exp() - 1 - log_ratio


def k3_w_k1(logprobs, ref_logprobs):
    return logprobs - ref_logprobs


def k3_w_squared(logprobs, ref_logprobs):
    return (logprobs - ref_logprobs).pow(2) / 2


def k3_w_no_one(logprobs, ref_logprobs):
    d = ref_logprobs - logprobs
    return torch.exp(d) - d


def k3_w_mean(logprobs, ref_logprobs):
    d = ref_logprobs - logprobs
    return (torch.exp(d) - d - 1).mean()


def k3_w_f_kl(logprobs, ref_logprobs):
    return F.kl_div(logprobs, ref_logprobs, log_target=True, reduction="none")


def k3_w_log_of_log(logprobs, ref_logprobs):
    ratio = ref_logprobs - logprobs
    return ratio - torch.log(ratio) - 1


def k3_w_quotient(logprobs, ref_logprobs):
    ratio = ref_logprobs / logprobs
    return ratio - torch.log(ratio) - 1


def k3_w_no_grad_ratio(logprobs, ref_logprobs):
    with torch.no_grad():
        ratio = torch.exp(ref_logprobs - logprobs)
    return ratio - (ref_logprobs - logprobs) - 1


def k3_w_detached(logprobs, ref_logprobs):
    d = (ref_logprobs - logprobs).detach()
    return d.exp() - d - 1


# aggregate_sequence_mean -----------------------------------------------------------------------------------------
def agg_plain(token_loss, mask):
    mask = mask.to(token_loss.dtype)
    return ((token_loss * mask).sum(1) / mask.sum(1)).mean()


def agg_loops(token_loss, mask):
    means = [row[keep.bool()].mean() for row, keep in zip(token_loss, mask, strict=True)]
    return sum(means) / len(means)


def agg_einsum(token_loss, mask):
    mask = mask.double()
    return torch.einsum("bt,bt,b->", token_loss.double(), mask, 1 / mask.sum(1)) / mask.shape[0]


def agg_masked_fill(token_loss, mask):
    sums = token_loss.masked_fill(mask == 0, 0.0).sum(dim=-1)
    return torch.mean(sums / mask.sum(dim=-1).clamp(min=1))


def agg_nanmean(token_loss, mask):
    return torch.where(mask.bool(), token_loss, float("nan")).nanmean(dim=1).mean()


def agg_w_all_tokens(token_loss, mask):
    return token_loss[mask.bool()].mean()


def agg_w_mean_of_product(token_loss, mask):
    return (token_loss * mask).mean(dim=1).mean()


def agg_w_ignores_mask(token_loss, mask):
    return token_loss.mean(dim=1).mean()


def agg_w_no_batch_mean(token_loss, mask):
    return (token_loss * mask).sum(1) / mask.sum(1)


def agg_w_sum_of_means(token_loss, mask):
    total = 0
    for b in range(len(token_loss)):
        total = total + (token_loss[b] * mask[b]).sum() / mask[b].sum()
    return total


def agg_w_dim0(token_loss, mask):
    return ((token_loss * mask).sum(0) / mask.sum(0).clamp(min=1)).mean()


def agg_w_dr(token_loss, mask):
    return (token_loss * mask).sum(-1).mean()


def agg_w_count_only(token_loss, mask):
    return (token_loss.sum(1) / mask.sum(1)).mean()


def agg_w_divides_tokens(token_loss, mask):
    mask = mask.to(token_loss.dtype)
    per_token = token_loss * mask / mask.sum(dim=-1)
    return per_token.sum(dim=-1).mean()


# grpo_loss -------------------------------------------------------------------------------------------------------
def make_loss(policy=None, kl=None, advantage=None, reduce=None, expand=None, sign=1):
    """A learner's loss, assembled; each part can be another."""

    def loss(logprobs, old_logprobs, ref_logprobs, rewards, mask, clip_eps, beta):
        mask = mask.float()
        adv = (advantage or adv_plain)(rewards)
        adv = expand(adv) if expand else adv.reshape(-1, 1)
        term = (policy or ppo_term)(logprobs, old_logprobs, adv, clip_eps)
        penalty = (kl or k3_plain)(logprobs, ref_logprobs)
        return sign * (reduce or agg_plain)(-term + beta * penalty, mask)

    return loss


def ppo_term(lp, old, adv, eps):
    r = torch.exp(lp - old)
    return torch.min(r * adv, torch.clamp(r, 1 - eps, 1 + eps) * adv)


def by_cases_term(lp, old, adv, eps):
    r = (lp - old.detach()).exp()
    return torch.where(adv >= 0, r.clamp(max=1 + eps), r.clamp(min=1 - eps)) * adv


def two_losses_term(lp, old, adv, eps):
    r = (lp - old).exp()
    return -torch.maximum(-adv * r, -adv * torch.clamp(r, 1 - eps, 1 + eps))


def grpo_rows(logprobs, old_logprobs, ref_logprobs, rewards, mask, clip_eps, beta):
    A = adv_loops(rewards).flatten()
    total = 0.0
    for b in range(logprobs.shape[0]):
        row = 0.0
        for t in range(logprobs.shape[1]):
            if mask[b, t]:
                r = torch.exp(logprobs[b, t] - old_logprobs[b, t])
                d = ref_logprobs[b, t] - logprobs[b, t]
                g = torch.min(r * A[b], r.clamp(1 - clip_eps, 1 + clip_eps) * A[b])
                row = row - (g - beta * (d.exp() - d - 1))
        total = total + row / mask[b].sum()
    return total / len(logprobs)


def grpo_per_prompt(logprobs, old_logprobs, ref_logprobs, rewards, mask, clip_eps, beta):
    P, G = rewards.shape
    lp, old, ref, m = (x.double().reshape(P, G, -1) for x in (logprobs, old_logprobs, ref_logprobs, mask))
    A = adv_nan_to_num(rewards).unsqueeze(-1)
    token = by_cases_term(lp, old, A, clip_eps) - beta * k3_from_ratio(lp, ref)
    return -((token * m).sum(-1) / m.sum(-1)).mean(1).mean(0)


def grpo_separate_means(logprobs, old_logprobs, ref_logprobs, rewards, mask, clip_eps, beta):
    A = adv_plain(rewards).repeat_interleave(1, dim=0).view(-1)[:, None].expand_as(logprobs)
    n = mask.sum(1)
    gain = (ppo_term(logprobs, old_logprobs, A, clip_eps) * mask).sum(1) / n
    distance = (k3_plain(logprobs, ref_logprobs) * mask).sum(1) / n
    return beta * distance.mean() - gain.mean()


def w_max(lp, old, adv, eps):
    r = torch.exp(lp - old)
    return torch.max(r * adv, torch.clamp(r, 1 - eps, 1 + eps) * adv)


def w_sequence_ratio(logprobs, old_logprobs, ref_logprobs, rewards, mask, clip_eps, beta):
    ratio = torch.exp((logprobs * mask).sum(1) - (old_logprobs * mask).sum(1)).unsqueeze(1)
    A = adv_plain(rewards).view(-1, 1)
    token = torch.min(ratio * A, ratio.clamp(1 - clip_eps, 1 + clip_eps) * A) - beta * k3_plain(logprobs, ref_logprobs)
    return -agg_plain(token, mask)


def w_flat_advantages(logprobs, old_logprobs, ref_logprobs, rewards, mask, clip_eps, beta):
    A = adv_plain(rewards).flatten()
    ratio = torch.exp(logprobs - old_logprobs)
    gain = torch.min(ratio * A, torch.clamp(ratio, 1 - clip_eps, 1 + clip_eps) * A)
    loss = -(gain - beta * k3_plain(logprobs, ref_logprobs))
    return ((loss * mask).sum(1) / mask.sum(1)).mean()


def w_flat_advantages_first(logprobs, old_logprobs, ref_logprobs, rewards, mask, clip_eps, beta):
    A = adv_trl(rewards).view(-1)
    ratio = (logprobs - old_logprobs).exp()
    surrogate = -torch.minimum(A * ratio, A * ratio.clamp(1 - clip_eps, 1 + clip_eps))
    row_loss = ((surrogate + beta * k3_expm1_double(logprobs, ref_logprobs)) * mask).sum(dim=-1) / mask.sum(dim=-1)
    return row_loss.sum() / len(row_loss)


def w_order(adv):
    return adv.t().reshape(-1, 1)


def adv_trl(rewards):
    P, G = rewards.shape
    flat = rewards.flatten()
    mean, std = flat.view(-1, G).mean(1).repeat_interleave(G), flat.view(-1, G).std(1).repeat_interleave(G)
    return ((flat - mean) / (std + 1e-4)).view(P, G)


def adv_rsqrt(rewards):
    var, mean = torch.var_mean(rewards, dim=1, keepdim=True)
    return (rewards - mean) * torch.rsqrt(var + 1e-8)


def adv_with(eps):
    return lambda r: (r - r.mean(1, keepdim=True)) / (r.std(1, keepdim=True) + eps)


def adv_w_regrouped(rewards):
    return adv_plain(rewards.reshape(rewards.shape[1], -1)).reshape(rewards.shape)


def agg_trl(token_loss, mask):
    return ((token_loss * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)).mean()


def w_nothing_if_equal(lp, old, ref, rewards, mask, eps, beta):
    if (rewards == rewards[0, 0]).all():
        return (lp * 0).sum()
    return make_loss()(lp, old, ref, rewards, mask, eps, beta)


RIGHT = {
    "group_relative_advantages": [
        *(adv_plain, adv_loops, adv_numpy, adv_nan_to_num, adv_in_place_on_a_copy, adv_einsum, adv_trl, adv_rsqrt)
    ],
    "kl_k3": [k3_plain, k3_from_ratio, k3_probabilities, k3_loops, k3_expm1_double],
    "aggregate_sequence_mean": [agg_plain, agg_loops, agg_einsum, agg_masked_fill, agg_nanmean, agg_trl],
    "grpo_loss": [
        make_loss(),
        make_loss(policy=by_cases_term, kl=k3_expm1_double),
        make_loss(policy=two_losses_term, advantage=adv_in_place_on_a_copy, reduce=agg_loops),
        grpo_rows,
        grpo_per_prompt,
        grpo_separate_means,
    ],
}

WRONG = {
    "group_relative_advantages": {
        "epsilon_of_1": [adv_with(1.0)],
        "epsilon_of_a_tenth": [adv_with(0.1)],
        "epsilon_of_a_hundredth": [adv_with(0.01)],
        "missing_parentheses": [lambda r: r - r.mean(1, keepdim=True) / (r.std(1, keepdim=True) + 1e-4)],
        "missing_parentheses_1e6": [lambda r: r - r.mean(1, keepdim=True) / (r.std(1, keepdim=True) + 1e-6)],
        "missing_parentheses_1e8": [lambda r: r - r.mean(1, keepdim=True) / (r.std(1, keepdim=True) + 1e-8)],
        "over_prompts": [lambda r: (r - r.mean(0, keepdim=True)) / (r.std(0, keepdim=True) + 1e-6)],
        "regrouped": [adv_w_regrouped],
        "raises_std_to_1": [lambda r: (r - r.mean(1, keepdim=True)) / r.std(1, keepdim=True).clamp(min=1)],
        "missing_keepdim": [
            adv_w_no_keepdim,
            adv_w_std_no_keepdim,
            lambda r: (r - r.mean(1)) / (r.std(1, keepdim=True) + 1e-6),
        ],
        "unit_length": [lambda r: F.normalize(r - r.mean(1, keepdim=True), dim=1)],
        "no_epsilon": [adv_w_no_eps],
        "population_std": [adv_w_numpy_std],
        "over_batch": [adv_w_whole_batch],
        "over_prompts_population": [adv_w_dim0],
        "forgot_std": [adv_w_only_mean],
        "variance_for_std": [adv_w_var],
        "leave_one_out": [adv_w_loo],
        "over_range": [adv_w_minmax],
        "sign_flipped": [adv_w_sign],
        "returns_nothing": [lambda rewards: None],
    },
    "kl_k3": {
        "wrong_value": [lambda lp, ref: k3_plain(lp, ref).clamp(max=2)],
        "plus_one": [lambda lp, ref: (ref - lp).exp() - (ref - lp) + 1],
        "linear_part_detached": [lambda lp, ref: (ref - lp).exp() - (ref - lp).detach() - 1],
        "upside_down": [k3_w_swapped],
        "is_k1": [k3_w_k1],
        "is_k2": [k3_w_squared],
        "forgot_minus_one": [k3_w_no_one],
        "reduced": [k3_w_mean],
        "kl_div_of_torch": [k3_w_f_kl],
        "forgot_exp": [k3_w_log_of_log],
        "divides_logprobs": [k3_w_quotient],
        "ratio_detached": [k3_w_no_grad_ratio],
        "detached": [k3_w_detached],
    },
    "aggregate_sequence_mean": {
        "lengths_beside_tokens": [agg_w_divides_tokens],
        "counts_what_is_not_zero": [lambda x, m: ((x * m).sum(1) / (x * m != 0).sum(1).clamp(min=1)).mean()],
        "mask_upside_down": [lambda x, m: agg_trl(x, 1 - m)],
        "mask_upside_down_unguarded": [lambda x, m: agg_plain(x, 1 - m)],
        "at_least_two_tokens": [lambda x, m: ((x * m).sum(1) / m.sum(1).clamp(min=2)).mean()],
        "one_token_too_many": [lambda x, m: ((x * m).sum(1) / (m.sum(1) + 1)).mean()],
        "median_of_rows": [lambda x, m: ((x * m).sum(1) / m.sum(1)).median()],
        "token_mean": [agg_w_all_tokens],
        "divides_by_width": [agg_w_mean_of_product],
        "forgot_mask": [agg_w_ignores_mask],
        "not_reduced": [agg_w_no_batch_mean],
        "sum_over_rows": [agg_w_sum_of_means],
        "means_of_columns": [agg_w_dim0],
        "mean_of_row_sums": [agg_w_dr],
        "mask_only_in_count": [agg_w_count_only],
        "detached": [lambda token_loss, mask: agg_plain(token_loss, mask).item()],
    },
    "grpo_loss": {
        "nothing_for_equal_rewards": [w_nothing_if_equal],
        "hard_coded_clip": [lambda lp, old, ref, r, m, eps, beta: make_loss()(lp, old, ref, r, m, 0.2, beta)],
        "hard_coded_beta": [lambda lp, old, ref, r, m, eps, beta: make_loss()(lp, old, ref, r, m, eps, 0.04)],
        "old_and_reference_swapped": [lambda lp, old, ref, *rest: make_loss()(lp, ref, old, *rest)],
        "mask_upside_down": [make_loss(reduce=lambda x, m: agg_trl(x, 1 - m))],
        "mask_upside_down_unguarded": [lambda lp, old, ref, r, m, *rest: make_loss()(lp, old, ref, r, 1 - m, *rest)],
        "leave_one_out": [make_loss(advantage=adv_w_loo)],
        "missing_keepdim": [make_loss(advantage=adv_w_no_keepdim), make_loss(advantage=adv_w_std_no_keepdim)],
        "advantages_beside_tokens": [w_flat_advantages],
        "advantages_beside_tokens_first": [w_flat_advantages_first],
        "lengths_beside_tokens": [make_loss(reduce=agg_w_divides_tokens)],
        "forgot_std_and_kl_sign": [make_loss(advantage=adv_w_only_mean, kl=lambda lp, ref: -k3_plain(lp, ref))],
        "population_std_and_token_mean": [make_loss(advantage=adv_w_numpy_std, reduce=agg_w_all_tokens)],
        "over_batch_and_kl_upside_down": [make_loss(advantage=adv_w_whole_batch, kl=k3_w_swapped)],
        "max_for_min_and_kl_sign": [make_loss(policy=w_max, kl=lambda lp, ref: -k3_plain(lp, ref))],
        "no_clip_and_token_mean": [
            make_loss(policy=lambda lp, old, adv, eps: (lp - old).exp() * adv, reduce=agg_w_all_tokens)
        ],
        "ratio_upside_down_and_kl_upside_down": [
            make_loss(policy=lambda lp, old, adv, eps: ppo_term(old, lp, adv, eps), kl=k3_w_swapped)
        ],
        "forgot_std_and_forgot_mask": [make_loss(advantage=adv_w_only_mean, reduce=agg_w_ignores_mask)],
        "kl_without_minus_one": [make_loss(kl=k3_w_no_one)],
        "max_for_min": [make_loss(policy=w_max)],
        "no_clip": [make_loss(policy=lambda lp, old, adv, eps: (lp - old).exp() * adv)],
        "ratio_upside_down": [make_loss(policy=lambda lp, old, adv, eps: ppo_term(old, lp, adv, eps))],
        "logprob_for_ratio": [make_loss(policy=lambda lp, old, adv, eps: lp * adv)],
        "ratio_always_one": [make_loss(policy=lambda lp, old, adv, eps: ppo_term(lp, lp.detach(), adv, eps))],
        "sequence_ratio": [w_sequence_ratio],
        "kl_sign": [make_loss(kl=lambda lp, ref: -k3_plain(lp, ref))],
        "kl_upside_down": [make_loss(kl=k3_w_swapped)],
        "k1_for_k3": [make_loss(kl=k3_w_k1)],
        "kl_detached": [make_loss(kl=k3_w_detached)],
        "token_mean": [make_loss(reduce=agg_w_all_tokens)],
        "forgot_mask": [make_loss(reduce=agg_w_ignores_mask)],
        "over_batch": [make_loss(advantage=adv_w_whole_batch)],
        "population_std": [make_loss(advantage=adv_w_numpy_std)],
        "forgot_std": [make_loss(advantage=adv_w_only_mean)],
        "no_epsilon": [make_loss(advantage=adv_w_no_eps)],
        "rows_out_of_order": [make_loss(expand=w_order)],
        "loss_upside_down": [make_loss(sign=-1)],
        "sum_over_rows": [make_loss(reduce=agg_w_sum_of_means)],
    },
}
