"""Chapter 02: right and wrong answers, as learners write them."""

import numpy as np
import torch
import torch.nn.functional as F

# sft_loss ----------------------------------------------------------------------------------------------------------


def sft_plain(logprobs, mask):
    return -(logprobs * mask).sum() / mask.sum()


def sft_select(logprobs, mask):
    return -logprobs[mask.bool()].mean()


def sft_where(logprobs, mask):
    nll = torch.where(mask > 0, -logprobs, 0.0)
    return nll.sum() / (mask > 0).sum()


def sft_loops(logprobs, mask):
    total, count = 0.0, 0
    for b in range(logprobs.shape[0]):
        for t in range(logprobs.shape[1]):
            if mask[b, t]:
                total = total - logprobs[b, t]
                count += 1
    return total / count


def sft_einsum(logprobs, mask):
    m = mask.double()
    return -torch.einsum("bt,bt->", logprobs.double(), m) / m.sum()


def sft_weights(logprobs, mask):
    weights = mask.float() / mask.float().sum()
    return torch.sum(weights * logprobs.neg())


def sft_in_place(logprobs, mask):
    loss = -logprobs.clone()
    loss[mask == 0] = 0
    return loss.sum().div(torch.count_nonzero(mask))


def sft_lengths(logprobs, mask):
    lengths = mask.sum(dim=1).long()
    rows = [row[:n] for row, n in zip(logprobs, lengths, strict=True)]
    return torch.cat(rows).mean().neg()


def sft_weighted_rows(logprobs, mask):
    mask = mask.float()
    lengths = mask.sum(1)
    row_means = -(logprobs * mask).sum(1) / lengths
    return (row_means * lengths).sum() / lengths.sum()


def sft_nanmean(logprobs, mask):
    return -torch.nanmean(logprobs.masked_fill(mask == 0, float("nan")))


def sft_dot(logprobs, mask):
    return -(logprobs.flatten() @ mask.to(logprobs.dtype).flatten()) / mask.sum().clamp(min=1)


def sft_wrong_sign(logprobs, mask):
    return logprobs[mask.bool()].mean()


def sft_torch_mean(logprobs, mask):
    return (-logprobs).mean()


def sft_masked_then_mean(logprobs, mask):
    nll = -logprobs
    nll = nll * mask
    return nll.mean()


def sft_filled_then_mean(logprobs, mask):
    return (-logprobs).masked_fill(mask == 0, 0.0).mean()


def sft_rows_then_batch(logprobs, mask):
    losses = []
    for row, row_mask in zip(logprobs, mask, strict=True):
        losses.append(-row[row_mask.bool()].mean())
    return torch.stack(losses).mean()


def sft_total(logprobs, mask):
    total = 0
    for row, row_mask in zip(logprobs, mask, strict=True):
        total = total - (row * row_mask).sum()
    return total


def sft_by_rows(logprobs, mask):
    return -(logprobs * mask).sum() / len(logprobs)


def sft_sequence(logprobs, mask):
    return -torch.stack([(lp * m).sum() for lp, m in zip(logprobs, mask, strict=True)]).mean()


def sft_unreduced(logprobs, mask):
    return torch.where(mask.bool(), -logprobs, torch.zeros_like(logprobs))


def sft_vector(logprobs, mask):
    return -(logprobs * mask).sum(-1) / mask.sum(-1)


def sft_vector_of_sums(logprobs, mask):
    return -torch.einsum("bt,bt->b", logprobs, mask)


def sft_padding_only(logprobs, mask):
    padding = mask == 0
    return -(logprobs * padding).sum() / padding.sum()


def sft_cut_the_end(logprobs, mask):
    logprobs, mask = logprobs[:, :-1], mask[:, :-1]
    return -(logprobs * mask).sum() / mask.sum()


def sft_without_eos(logprobs, mask):
    kept = mask.clone()
    for b in range(len(kept)):
        kept[b, int(mask[b].sum()) - 1] = 0
    return -(logprobs * kept).sum() / kept.sum().clamp(min=1)


def sft_cut_the_start(logprobs, mask):
    lp, m = logprobs[:, 1:], mask[:, 1:]
    return -(lp * m).sum() / m.sum()


def sft_shift(logprobs, mask):
    shift_logprobs = logprobs[:, :-1]
    shift_mask = mask[:, 1:]
    return -(shift_logprobs * shift_mask).sum() / shift_mask.sum()


def sft_probabilities(logprobs, mask):
    return -(torch.exp(logprobs) * mask).sum() / mask.sum()


def sft_perplexity(logprobs, mask):
    return torch.exp(-(logprobs * mask).sum() / mask.sum())


def sft_log_of_log(logprobs, mask):
    loss = -torch.log(logprobs)
    return (loss * mask).sum() / mask.sum()


def sft_columns(logprobs, mask):
    return -(logprobs * mask).sum() / logprobs.size(1)


def sft_half_masked(logprobs, mask):
    return -logprobs.sum() / mask.sum()


def sft_log_softmax(logprobs, mask):
    lp = F.log_softmax(logprobs, dim=1)
    return -(lp * mask).sum() / mask.sum()


# rejection_weights -------------------------------------------------------------------------------------------------


def weights_plain(rewards):
    keep = (rewards >= 1).float()
    share = keep / keep.sum(1, keepdim=True).clamp(min=1)
    return share / share.sum().clamp(min=1)


def weights_loops(rewards):
    weights = torch.zeros(rewards.shape)
    solved = [p for p in range(len(rewards)) if any(r >= 1 for r in rewards[p].tolist())]
    for p in solved:
        right = [i for i in range(rewards.shape[1]) if rewards[p, i] >= 1]
        for i in right:
            weights[p, i] = 1 / (len(solved) * len(right))
    return weights


def weights_nan_to_num(rewards):
    accepted = rewards.ge(1.0).double()
    within = torch.nan_to_num(accepted / accepted.sum(dim=-1, keepdim=True))
    return torch.nan_to_num(within / within.sum())


def weights_where(rewards):
    accepted = rewards >= 1
    count = accepted.sum(dim=1)
    solved = (count > 0).sum()
    return torch.where(accepted, 1.0 / (count * solved).unsqueeze(1), 0.0)


def weights_numpy(rewards):
    accepted = (rewards.numpy() >= 1).astype(np.float64)
    count = accepted.sum(axis=1, keepdims=True)
    solved = max((count > 0).sum(), 1)
    return accepted / np.maximum(count, 1) / solved


def weights_einsum(rewards):
    accepted = (rewards >= 1).to(torch.float32)
    scale = torch.zeros(len(rewards))
    has = accepted.any(dim=1)
    scale[has] = 1 / (accepted[has].sum(dim=1) * has.sum())
    return torch.einsum("pg,p->pg", accepted, scale)


def weights_in_place(rewards):
    weights = rewards.clone()
    weights[weights < 1] = 0
    weights[weights >= 1] = 1
    weights /= weights.sum(1, keepdim=True) + 1e-8
    weights /= max(float(weights.sum()), 1e-8)
    return weights


def weights_log(rewards):
    accepted = rewards >= 1
    logits = torch.zeros_like(rewards).masked_fill(~accepted, -1e9)
    share = logits.softmax(dim=1) * accepted
    return share / accepted.any(1).sum().clamp(min=1)


def weights_indices(rewards):
    weights = torch.zeros_like(rewards)
    rows, columns = torch.nonzero(rewards >= 1, as_tuple=True)
    if len(rows) == 0:
        return weights
    counts = torch.bincount(rows, minlength=len(rewards))
    weights[rows, columns] = 1.0 / counts[rows] / len(rows.unique())
    return weights


def only_ones_and_zeros(rewards):
    return (rewards >= 1).float()


def pooled(rewards):
    accepted = (rewards >= 1).float()
    if accepted.sum() == 0:
        return accepted
    return accepted / accepted.sum()


def pooled_nan(rewards):
    accepted = (rewards >= 1).float()
    return accepted / accepted.sum()


def row_shares(rewards):
    accepted = (rewards >= 1).float()
    return accepted / accepted.sum(dim=1, keepdim=True).clamp_min(1)


def row_shares_nan(rewards):
    accepted = (rewards >= 1).float()
    return accepted / accepted.sum(dim=1, keepdim=True)


def over_all_prompts(rewards):
    accepted = (rewards >= 1).float()
    return accepted / accepted.sum(dim=1, keepdim=True).clamp(min=1) / rewards.shape[0]


def over_all_prompts_nan(rewards):
    accepted = rewards >= 1
    return accepted / accepted.sum(dim=1, keepdim=True) / len(accepted)


def by_group_size(rewards):
    return (rewards >= 1).float() / rewards.size(1)


def averaged(rewards):
    P, G = rewards.shape
    return (rewards >= 1).float() / (P * G)


def careless_division(rewards):
    accepted = (rewards >= 1).float()
    count = accepted.sum(dim=1, keepdim=True)
    return accepted / count / (count > 0).sum()


def careless_total(rewards):
    accepted = (rewards >= 1).float()
    share = accepted / accepted.sum(dim=1, keepdim=True).clamp(min=1)
    return share / share.sum()


def any_reward(rewards):
    accepted = (rewards > 0).float()
    share = accepted / accepted.sum(dim=1, keepdim=True).clamp(min=1)
    return share / share.sum().clamp(min=1)


def above_half(rewards):
    accepted = (rewards > 0.5).float()
    share = accepted / accepted.sum(dim=1, keepdim=True).clamp(min=1)
    return share / share.sum().clamp(min=1)


def rounded(rewards):
    accepted = (torch.round(rewards) >= 1).float()
    share = accepted / accepted.sum(dim=1, keepdim=True).clamp(min=1)
    return share / share.sum().clamp(min=1)


def equal_to_one(rewards):
    accepted = (rewards == 1.0).float()
    share = accepted / accepted.sum(dim=1, keepdim=True).clamp(min=1)
    return share / share.sum().clamp(min=1)


def shares_of_reward(rewards):
    share = rewards / rewards.sum(dim=1, keepdim=True).clamp(min=1e-6)
    return share / share.sum().clamp(min=1e-6)


def filtered_shares_of_reward(rewards):
    kept = torch.where(rewards >= 1, rewards, torch.zeros_like(rewards))
    share = kept / kept.sum(dim=1, keepdim=True).clamp(min=1e-6)
    return share / share.sum().clamp(min=1e-6)


def wrong_dimension(rewards):
    accepted = (rewards >= 1).float()
    share = accepted / accepted.sum(dim=0, keepdim=True).clamp(min=1)
    return share / share.sum().clamp(min=1)


def wrong_side(rewards):
    accepted = (rewards < 1).float()
    share = accepted / accepted.sum(dim=1, keepdim=True).clamp(min=1)
    return share / share.sum().clamp(min=1)


def best_of_n(rewards):
    weights = torch.zeros_like(rewards)
    for p in range(len(rewards)):
        weights[p, rewards[p].argmax()] = 1.0
    return weights / weights.sum()


def first_right_one(rewards):
    weights = torch.zeros_like(rewards)
    for p, row in enumerate(rewards):
        if row.max() >= 1:
            weights[p, row.argmax()] = 1.0
    return weights / weights.sum().clamp(min=1)


def softmaxed(rewards):
    return torch.softmax(rewards, dim=-1) / rewards.shape[0]


def best_ones(rewards):
    best = (rewards == rewards.max(dim=1, keepdim=True).values).float()
    return best / best.sum(dim=1, keepdim=True) / len(rewards)


def above_one(rewards):
    accepted = (rewards > 1).float()
    share = accepted / accepted.sum(dim=1, keepdim=True).clamp(min=1)
    return share / share.sum().clamp(min=1)


def rewards_over_prompts(rewards):
    return torch.where(rewards >= 1, 1.0 / len(rewards), 0.0)


def whitened(rewards):
    return (rewards - rewards.mean(dim=1, keepdim=True)) / (rewards.std(dim=1, keepdim=True) + 1e-4)


def any_reward_pooled(rewards):
    accepted = (rewards > 0).float()
    return accepted / max(accepted.sum(), 1)


def centred(rewards):
    return rewards - rewards.mean(-1, keepdim=True)


RIGHT = {
    "sft_loss": [
        lambda lp, m: -torch.masked_select(lp, m.bool()).mean(),
        lambda lp, m: -(lp * m).sum() / (m.sum() + 1e-8),
        sft_plain, sft_select, sft_where, sft_loops, sft_einsum, sft_weights, sft_in_place, sft_lengths,
        sft_weighted_rows, sft_nanmean, sft_dot,
    ],
    "rejection_weights": [
        lambda r: F.normalize(F.normalize((r >= 1).double(), p=1, dim=1).flatten(), p=1, dim=0).view_as(r),
        weights_plain, weights_loops, weights_nan_to_num, weights_where, weights_numpy, weights_einsum,
        weights_in_place, weights_log, weights_indices,
    ],
}  # fmt: skip

WRONG = {
    "sft_loss": {
        "counts_what_is_not_zero": [lambda lp, m: -(lp * m).sum() / (lp * m != 0).sum()],
        "cuts_off_unlikely_tokens": [lambda lp, m: -(lp.clamp(min=-5) * m).sum() / m.sum()],
        "mask_upside_down_guarded": [lambda lp, m: -lp.masked_fill(m != 0, 0).sum() / (m == 0).sum().clamp(min=1)],
        "mask_upside_down_in_the_sum": [lambda lp, m: -(lp * (1 - m)).sum() / m.sum()],
        "divides_by_rows_too": [lambda lp, m: -((lp * m).sum(1) / m.sum()).mean()],
        "fills_with_infinity": [lambda lp, m: -lp.masked_fill(m == 0, -torch.inf).sum() / m.sum()],
        "leaves_out_first_token_guarded": [lambda lp, m: -(lp * m)[:, 1:].sum() / m[:, 1:].sum().clamp(min=1)],
        "forgot_minus": [sft_wrong_sign],
        "forgot_mask": [sft_torch_mean],
        "counts_padding": [sft_masked_then_mean, sft_filled_then_mean],
        "counts_all_but_masks_the_count": [sft_half_masked],
        "mean_of_row_means": [sft_rows_then_batch],
        "sum_over_tokens": [sft_total],
        "mean_over_rows": [sft_by_rows, sft_sequence],
        "divides_by_columns": [sft_columns],
        "not_reduced": [sft_unreduced],
        "one_loss_a_row": [sft_vector],
        "one_sum_a_row": [sft_vector_of_sums],
        "mask_upside_down": [sft_padding_only],
        "leaves_out_last_token": [sft_cut_the_end],
        "drops_each_eos": [sft_without_eos],
        "leaves_out_first_token": [sft_cut_the_start],
        "shifts_again": [sft_shift],
        "probability_for_logprob": [sft_probabilities],
        "log_again": [sft_log_of_log],
        "perplexity": [sft_perplexity],
        "softmax_again": [sft_log_softmax],
    },
    "rejection_weights": {
        "accepts_by_size": [lambda r: weights_plain(r.abs())],
        "accepts_all_but_zero": [lambda r: weights_plain((r != 0).float())],
        "above_the_mean": [lambda r: weights_plain((r > r.mean(1, keepdim=True)).float())],
        "best_of_the_batch": [lambda r: weights_plain((r >= r.max()).float())],
        "shares_over_all_rows": [lambda r: (r >= 1) / (r >= 1).sum(1, keepdim=True).clamp(min=1) / r.numel()],
        "not_scaled": [only_ones_and_zeros],
        "every_row_the_same": [pooled, pooled_nan],
        "each_prompt_sums_to_one": [row_shares],
        "zero_by_zero_and_not_scaled": [row_shares_nan],
        "counts_unsolved_prompts": [over_all_prompts],
        "zero_by_zero_and_counts_all": [over_all_prompts_nan],
        "divides_by_group_size": [by_group_size],
        "divides_by_all_rows": [averaged],
        "zero_by_zero": [careless_division],
        "zero_by_zero_if_none": [careless_total],
        "accepts_partial": [any_reward],
        "rounds_the_reward": [above_half, rounded],
        "only_exactly_one": [equal_to_one],
        "weighs_by_reward": [shares_of_reward],
        "weighs_accepted_by_reward": [filtered_shares_of_reward],
        "down_the_columns": [wrong_dimension],
        "keeps_the_rejected": [wrong_side],
        "best_of_each_prompt": [best_of_n],
        "one_answer_a_prompt": [first_right_one],
        "softmax_of_rewards": [softmaxed],
        "subtracts_the_mean": [centred],
        "all_best_of_each_prompt": [best_ones],
        "only_above_one": [above_one],
        "divides_by_number_of_prompts": [rewards_over_prompts],
        "group_relative_advantages": [whitened],
        "accepts_partial_and_pools": [any_reward_pooled],
    },
}
