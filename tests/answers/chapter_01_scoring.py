"""Answers to chapter 01's scorer as learners write them: right ones in many styles, wrong ones by diagnosis."""

import torch
import torch.nn.functional as F

import grpo_teach as gt


def positions_of(mask):
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def inputs_of(prompt_ids, prompt_mask, completion_ids):
    ids = torch.cat([prompt_ids, completion_ids], dim=1)
    mask = torch.cat([prompt_mask, torch.ones_like(completion_ids)], dim=1)
    return ids, mask


# Right ------------------------------------------------------------------------------------------------------------


def one_pass(model, prompt_ids, prompt_mask, completion_ids):
    ids, mask = inputs_of(prompt_ids, prompt_mask, completion_ids)
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions_of(mask), use_cache=False)
    logp = torch.log_softmax(out.logits[:, :-1].float(), -1)
    return logp.gather(2, ids[:, 1:, None])[..., 0][:, -completion_ids.size(1) :]


def cross_entropy(model, prompt_ids, prompt_mask, completion_ids):
    ids, mask = inputs_of(prompt_ids, prompt_mask, completion_ids)
    positions = mask.cumsum(1) - 1
    positions[mask == 0] = 1  # as transformers' own `generate` fills the padding
    logits = model(ids, attention_mask=mask, position_ids=positions)["logits"]
    before = logits[:, prompt_ids.shape[1] - 1 : -1]
    return -F.cross_entropy(before.transpose(1, 2), completion_ids, reduction="none")


def row_by_row(model, prompt_ids, prompt_mask, completion_ids):
    rows = []
    for prompt, real, completion in zip(prompt_ids, prompt_mask, completion_ids, strict=True):
        prompt = prompt[real.bool()]  # without padding the model's own positions are right
        logits = model(torch.cat([prompt, completion])[None]).logits[0]
        logp = logits[len(prompt) - 1 : -1].log_softmax(-1)
        rows.append(logp[torch.arange(len(completion)), completion])
    return torch.stack(rows)


def with_the_cache(model, prompt_ids, prompt_mask, completion_ids):
    seen, read, places, cache, columns = prompt_mask, prompt_ids, positions_of(prompt_mask), None, []
    for t in range(completion_ids.shape[1]):
        out = model(input_ids=read, attention_mask=seen, position_ids=places, past_key_values=cache, use_cache=True)
        cache, read = out.past_key_values, completion_ids[:, t : t + 1]
        columns.append(out.logits[:, -1].log_softmax(-1).gather(1, read))
        seen = torch.cat([seen, torch.ones_like(read)], dim=1)
        places = places[:, -1:] + 1
    return torch.cat(columns, dim=1)


def prompt_first_then_completion(model, prompt_ids, prompt_mask, completion_ids):
    start = model(prompt_ids, attention_mask=prompt_mask, position_ids=positions_of(prompt_mask), use_cache=True)
    _, mask = inputs_of(prompt_ids, prompt_mask, completion_ids)
    places = positions_of(mask)[:, prompt_ids.shape[1] :]
    rest = model(completion_ids, attention_mask=mask, position_ids=places, past_key_values=start.past_key_values)
    logits = torch.cat([start.logits[:, -1:], rest.logits[:, :-1]], dim=1)
    return torch.distributions.Categorical(logits=logits).log_prob(completion_ids)


def trunk_and_head(model, prompt_ids, prompt_mask, completion_ids):
    ids, mask = inputs_of(prompt_ids, prompt_mask, completion_ids)
    hidden = model.get_decoder()(input_ids=ids, attention_mask=mask, position_ids=positions_of(mask))[0]
    logits = model.get_output_embeddings()(hidden[:, prompt_ids.shape[1] - 1 : -1])
    chosen = logits.gather(-1, completion_ids.unsqueeze(-1)).squeeze(-1)
    return chosen - logits.logsumexp(dim=-1)


def packages_own(model, prompt_ids, prompt_mask, completion_ids):
    every = torch.ones_like(completion_ids, dtype=torch.float)
    return gt.score(model.eval(), gt.Rollouts(prompt_ids, prompt_mask, completion_ids, every, every))


# Wrong ------------------------------------------------------------------------------------------------------------


def told(mask=True, positions=positions_of, start=-1, end=-1, pick=None):
    """One forward pass that is told something of the padding, and read from one column to another."""

    def answer(model, prompt_ids, prompt_mask, completion_ids):
        ids, real = inputs_of(prompt_ids, prompt_mask, completion_ids)
        told = {"attention_mask": real} if mask else {}
        if positions:
            told["position_ids"] = positions(real)
        logits = model(ids, **told).logits[:, prompt_ids.shape[1] + start : end or None]
        logp = logits if pick == "logits" else logits.softmax(-1) if pick == "softmax" else logits.log_softmax(-1)
        return logp.gather(-1, completion_ids[..., None]).squeeze(-1)

    return answer


def from_arange(mask):
    return torch.arange(mask.shape[1]).expand_as(mask)


def from_one(mask):
    return mask.cumsum(1) * mask


def bare(model, prompt_ids, prompt_mask, completion_ids):
    ids = torch.cat([prompt_ids, completion_ids], 1)
    logp = model(ids).logits.log_softmax(-1)
    return logp[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)[:, prompt_ids.shape[1] - 1 :]


def mask_of_what_is_not_0(model, prompt_ids, prompt_mask, completion_ids):
    ids = torch.cat([prompt_ids, completion_ids], dim=1)
    mask = ids.ne(0).long()
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions_of(mask)).logits
    return one_pass_from(logits, ids)[:, prompt_ids.shape[1] - 1 :]


def one_pass_from(logits, ids):
    return logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)


def mask_padded_with_zeros(model, prompt_ids, prompt_mask, completion_ids):
    ids, real = inputs_of(prompt_ids, prompt_mask, completion_ids)
    mask = F.pad(prompt_mask, (0, completion_ids.shape[1]))
    logits = model(ids, attention_mask=mask, position_ids=positions_of(real)).logits
    return one_pass_from(logits, ids)[:, -completion_ids.shape[1] :]


def two_counts(first):
    def answer(model, prompt_ids, prompt_mask, completion_ids):
        ids, real = inputs_of(prompt_ids, prompt_mask, completion_ids)
        later = first(prompt_ids) + torch.arange(completion_ids.shape[1]).expand_as(completion_ids)
        places = torch.cat([positions_of(prompt_mask), later], dim=1)
        logits = model(ids, attention_mask=real, position_ids=places).logits
        return one_pass_from(logits, ids)[:, -completion_ids.shape[1] :]

    return answer


def whole_row(model, prompt_ids, prompt_mask, completion_ids):
    ids, real = inputs_of(prompt_ids, prompt_mask, completion_ids)
    return one_pass_from(model(ids, attention_mask=real, position_ids=positions_of(real)).logits, ids)


def first_columns(model, prompt_ids, prompt_mask, completion_ids):
    return whole_row(model, prompt_ids, prompt_mask, completion_ids)[:, : completion_ids.shape[1]]


def from_the_second_on(model, prompt_ids, prompt_mask, completion_ids):
    return whole_row(model, prompt_ids, prompt_mask, completion_ids)[:, prompt_ids.shape[1] :]


def completion_alone(model, prompt_ids, prompt_mask, completion_ids):
    return one_pass_from(model(completion_ids).logits, completion_ids)


def of_the_row(model, prompt_ids, prompt_mask, completion_ids):
    return one_pass(model, prompt_ids, prompt_mask, completion_ids).sum(-1)


def as_a_loss(model, prompt_ids, prompt_mask, completion_ids):
    return -one_pass(model, prompt_ids, prompt_mask, completion_ids)


def loss_without_shift(model, prompt_ids, prompt_mask, completion_ids):
    ids, real = inputs_of(prompt_ids, prompt_mask, completion_ids)
    logits = model(ids, attention_mask=real, position_ids=positions_of(real)).logits
    return F.cross_entropy(logits.transpose(1, 2), ids, reduction="none")[:, prompt_ids.shape[1] :]


@torch.no_grad()
def like_a_sampler(model, prompt_ids, prompt_mask, completion_ids):
    return one_pass(model, prompt_ids, prompt_mask, completion_ids)


def detached(model, prompt_ids, prompt_mask, completion_ids):
    return one_pass(model, prompt_ids, prompt_mask, completion_ids).detach()


def frozen(model, prompt_ids, prompt_mask, completion_ids):
    model.requires_grad_(False)
    return one_pass(model, prompt_ids, prompt_mask, completion_ids)


def normaliser_detached(model, prompt_ids, prompt_mask, completion_ids):
    ids, real = inputs_of(prompt_ids, prompt_mask, completion_ids)
    logits = model(ids, attention_mask=real, position_ids=positions_of(real)).logits[:, prompt_ids.shape[1] - 1 : -1]
    return logits.gather(-1, completion_ids[..., None]).squeeze(-1) - logits.logsumexp(-1).detach()


def only_the_head_learns(model, prompt_ids, prompt_mask, completion_ids):
    ids, real = inputs_of(prompt_ids, prompt_mask, completion_ids)
    with torch.no_grad():
        hidden = model.get_decoder()(input_ids=ids, attention_mask=real, position_ids=positions_of(real))[0]
    return one_pass_from(model.get_output_embeddings()(hidden), ids)[:, prompt_ids.shape[1] - 1 :]


RIGHT = {
    "score_left_padded": [
        *(one_pass, cross_entropy, row_by_row, with_the_cache, prompt_first_then_completion, trunk_and_head),
        *(packages_own, told()),
    ]
}
WRONG = {
    "score_left_padded": {
        "no_mask_no_positions": [bare, told(mask=False, positions=None), told(mask=False, positions=from_arange)],
        "no_attention_mask": [told(mask=False)],
        "positions_count_padding": [told(positions=None), told(positions=from_arange)],
        "positions_start_at_one": [told(positions=from_one), told(positions=lambda mask: mask.cumsum(1))],
        "positions_start_again": [two_counts(lambda prompt_ids: 0)],
        "completion_counted_from_width": [two_counts(lambda prompt_ids: prompt_ids.shape[1])],
        "mask_from_ids": [mask_of_what_is_not_0],
        "mask_of_completion_missing": [mask_padded_with_zeros],
        "no_shift": [told(start=0, end=None)],
        "one_too_early": [told(start=-2, end=-2)],
        "prompt_included": [whole_row],
        "wrong_end": [first_columns],
        "first_token_missing": [from_the_second_on],
        "prompt_not_read": [completion_alone],
        "summed_over_tokens": [of_the_row],
        "raw_logits": [told(pick="logits")],
        "probability": [told(pick="softmax")],
        "negative_log_likelihood": [as_a_loss],
        "no_shift_and_negative": [loss_without_shift],
        "no_gradient_to_model": [like_a_sampler, detached, frozen],
        "other_gradient_to_model": [normaliser_detached, only_the_head_learns],
    }
}
