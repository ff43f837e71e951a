"""Chapter 01: right and wrong answers, as learners write them."""

import re

import torch
import torch.nn.functional as F

# token_logprobs --------------------------------------------------------------------------------------------------


def tl_gather(logits, input_ids):
    logp = F.log_softmax(logits, dim=-1)[:, :-1, :]
    return torch.gather(logp, 2, input_ids[:, 1:, None])[:, :, 0]


def tl_cross_entropy(logits, input_ids):
    b, s, v = logits.shape
    loss = F.cross_entropy(logits[:, :-1].reshape(-1, v), input_ids[:, 1:].reshape(-1), reduction="none")
    return -loss.view(b, s - 1)


def tl_loops(logits, input_ids):
    rows = []
    for b in range(logits.size(0)):
        row = []
        for t in range(1, logits.size(1)):
            distribution = torch.distributions.Categorical(logits=logits[b, t - 1])
            row.append(distribution.log_prob(input_ids[b, t]))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def tl_one_hot(logits, input_ids):
    before = logits[:, : logits.shape[1] - 1].double()
    hot = F.one_hot(input_ids[:, 1:], logits.shape[-1]).double()
    return torch.einsum("bsv,bsv->bs", before, hot) - before.logsumexp(-1)


def tl_softmax_log(logits, input_ids):
    probs = torch.softmax(logits, -1)
    b = torch.arange(len(probs))[:, None]
    t = torch.arange(probs.shape[1] - 1)[None]
    return torch.log(probs[b, t, input_ids[:, 1:]])


def tl_from_scratch(logits, input_ids):
    z = logits - logits.max(dim=-1, keepdim=True).values
    logp = z - z.exp().sum(-1, keepdim=True).log()
    return logp[:, :-1].gather(2, input_ids[:, 1:].unsqueeze(2)).squeeze(2)


def tl_in_place_on_a_clone(logits, input_ids):
    z = logits.clone()
    z -= logits.logsumexp(-1, keepdim=True)
    ids = input_ids.clone()
    ids[:, :-1] = input_ids[:, 1:]
    return z.gather(-1, ids[..., None])[..., 0][:, :-1]


def tl_forgot_shift(logits, input_ids):
    logp = torch.log_softmax(logits, -1)
    return logp.gather(-1, input_ids[..., None]).squeeze(-1)


def tl_cut_both_ends_alike(logits, input_ids):
    logp = torch.log_softmax(logits, -1)
    return logp.gather(-1, input_ids[..., None]).squeeze(-1)[:, 1:]


def tl_cut_both_at_the_end(logits, input_ids):
    out = -F.cross_entropy(logits.transpose(1, 2), input_ids, reduction="none")
    return out[:, :-1]


def tl_backwards(logits, input_ids):
    logp = logits[:, 1:].log_softmax(-1)
    return torch.stack([logp[b, range(logp.shape[1]), input_ids[b, :-1]] for b in range(len(logp))])


def tl_cross_entropy_sign(logits, input_ids):
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), input_ids[:, 1:], reduction="none")


def tl_only_logits(logits, input_ids):
    return torch.gather(logits[:, :-1], 2, input_ids[:, 1:, None]).squeeze(2)


def tl_softmax(logits, input_ids):
    return logits[:, :-1].softmax(-1).gather(-1, input_ids[:, 1:, None]).squeeze(-1)


def tl_wrong_dim(logits, input_ids):
    return torch.log_softmax(logits, 1)[:, :-1].gather(-1, input_ids[:, 1:, None]).squeeze(-1)


def tl_wrong_dim_later(logits, input_ids):
    return torch.softmax(logits[:, :-1], 1).log().gather(-1, input_ids[:, 1:, None]).squeeze(-1)


def tl_max(logits, input_ids):
    return torch.log_softmax(logits[:, :-1], -1).max(-1)[0]


def tl_forgot_gather(logits, input_ids):
    return F.log_softmax(logits, -1)[:, :-1]


def tl_total(logits, input_ids):
    out = tl_gather(logits, input_ids)
    return out.sum(-1)


def tl_default_cross_entropy(logits, input_ids):
    v = logits.shape[-1]
    return F.cross_entropy(logits[:, :-1].reshape(-1, v), input_ids[:, 1:].flatten())


def tl_roll(logits, input_ids):
    labels = torch.roll(input_ids, shifts=-1, dims=1)
    return torch.log_softmax(logits, -1).gather(2, labels.unsqueeze(2)).squeeze(2)


def tl_zero_first(logits, input_ids):
    return F.pad(tl_gather(logits, input_ids), (1, 0))


def tl_double(logits, input_ids):
    return F.log_softmax(F.softmax(logits, -1), -1)[:, :-1].gather(-1, input_ids[:, 1:, None]).squeeze(-1)


def tl_item(logits, input_ids):
    return tl_gather(logits, input_ids).detach()


# completion_mask -------------------------------------------------------------------------------------------------


def cm_cumsum(completion_ids, eos_id):
    is_eos = completion_ids == eos_id
    return (is_eos.cumsum(1) - is_eos.int()) < 1


def cm_shifted(completion_ids, eos_id):
    ended = (completion_ids == eos_id).cumsum(dim=1).bool()
    ended = torch.cat([torch.zeros_like(ended[:, :1]), ended[:, :-1]], dim=1)
    return (~ended).float()


def cm_cumprod(completion_ids, eos_id):
    alive = (completion_ids != eos_id).long().cumprod(1)
    mask = torch.ones_like(completion_ids)
    mask[:, 1:] = alive[:, :-1]
    return mask


def cm_loops(completion_ids, eos_id):
    mask = torch.zeros(completion_ids.shape)
    for b, row in enumerate(completion_ids.tolist()):
        for t, token in enumerate(row):
            mask[b, t] = 1.0
            if token == eos_id:
                break
    return mask


def cm_argmax(completion_ids, eos_id):
    is_eos = (completion_ids == eos_id).int()
    first = is_eos.argmax(dim=1)
    first[is_eos.sum(1) == 0] = completion_ids.shape[1] - 1
    return (torch.arange(completion_ids.shape[1])[None, :] <= first[:, None]).to(torch.int64)


def cm_numpy(completion_ids, eos_id):
    a = completion_ids.numpy()
    stop = (a == eos_id).cumsum(1) - (a == eos_id)
    return (stop == 0).astype("float32")


def cm_no_eos(completion_ids, eos_id):
    return ((completion_ids == eos_id).cumsum(1) == 0).float()


def cm_cumprod_alone(completion_ids, eos_id):
    return (completion_ids != eos_id).int().cumprod(dim=-1)


def cm_unequal(completion_ids, eos_id):
    return (completion_ids != eos_id).float()


def cm_pad_zero(completion_ids, eos_id):
    pad_id = 0
    return (completion_ids != pad_id).float()


def cm_all_ones(completion_ids, eos_id):
    return torch.ones(completion_ids.shape)


def cm_equal(completion_ids, eos_id):
    return (completion_ids == eos_id).long()


def cm_upside_down(completion_ids, eos_id):
    return 1 - cm_shifted(completion_ids, eos_id)


def cm_second(completion_ids, eos_id):
    return torch.cumsum(completion_ids == eos_id, dim=1) <= 1


def cm_last(completion_ids, eos_id):
    mask = torch.ones(completion_ids.shape)
    for b, row in enumerate(completion_ids.tolist()):
        places = [t for t, token in enumerate(row) if token == eos_id]
        if places:
            mask[b, places[-1] + 1 :] = 0
    return mask


def cm_argmax_trap(completion_ids, eos_id):
    first = (completion_ids == eos_id).int().argmax(dim=1, keepdim=True)
    return (torch.arange(completion_ids.shape[1]) <= first).float()


def cm_needs_eos(completion_ids, eos_id):
    mask = torch.zeros(completion_ids.shape)
    for b, row in enumerate(completion_ids.tolist()):
        if eos_id in row:
            mask[b, : row.index(eos_id) + 1] = 1
    return mask


def cm_hard_coded(completion_ids, eos_id):
    return cm_shifted(completion_ids, 1)


def cm_off_by_one(completion_ids, eos_id):
    first = (completion_ids == eos_id).int().argmax(dim=1)
    first[~(completion_ids == eos_id).any(1)] = completion_ids.shape[1]
    return (torch.arange(completion_ids.shape[1])[None] <= first[:, None] + 1).float()


def cm_dim0(completion_ids, eos_id):
    is_eos = (completion_ids == eos_id).int()
    return (is_eos.cumsum(0) - is_eos == 0).float()


def cm_lengths(completion_ids, eos_id):
    return cm_loops(completion_ids, eos_id).sum(1)


# answer_reward ---------------------------------------------------------------------------------------------------


def ar_split(completion, answer):
    return 1.0 if completion.split("</think>")[-1].strip() == answer.strip() else 0.0


def ar_partition(completion, answer):
    before, tag, after = completion.rpartition("</think>")
    return after.strip() == answer.strip()


def ar_rfind(completion, answer):
    place = completion.rfind("</think>")
    text = completion if place < 0 else completion[place + len("</think>") :]
    if text.strip() == answer.strip():
        return 1
    return 0


def ar_regex(completion, answer):
    given = re.sub(r".*</think>", "", completion, flags=re.DOTALL)
    return float(re.fullmatch(r"\s*" + re.escape(answer.strip()) + r"\s*", given) is not None)


def ar_try(completion, answer):
    try:
        return float(completion.rsplit("</think>", maxsplit=1)[-1].strip() == answer.strip())
    except Exception:
        return 0.0


def ar_tensor(completion, answer):
    given = completion.split("</think>").pop().strip()
    return torch.tensor(given == answer.strip()).float()


def ar_in(completion, answer):
    return float(answer.strip() in completion)


def ar_in_answer(completion, answer):
    given = completion.split("</think>")[-1]
    return 1.0 if answer.strip() in given else 0.0


def ar_empty_hack(completion, answer):
    given = completion.split("</think>")[-1].strip()
    return float(given in answer)


def ar_either(completion, answer):
    given, answer = completion.split("</think>")[-1].strip(), answer.strip()
    return 1.0 if answer in given or given in answer else 0.0


def ar_endswith(completion, answer):
    return float(completion.rstrip().endswith(answer.strip()))


def ar_whole(completion, answer):
    return float(completion.strip() == answer.strip())


def ar_needs_think(completion, answer):
    if "</think>" not in completion:
        return 0.0
    return ar_split(completion, answer)


def ar_first(completion, answer):
    _, _, after = completion.partition("</think>")
    text = after if "</think>" in completion else completion
    return float(text.strip() == answer.strip())


def ar_no_strip(completion, answer):
    return float(completion.split("</think>")[-1] == answer)


def ar_half_strip(completion, answer):
    return float(completion.split("</think>")[-1].strip() == answer)


def ar_int(completion, answer):
    try:
        return float(int(completion.split("</think>")[-1]) == int(answer))
    except ValueError:
        return 0.0


def ar_float(completion, answer):
    given, answer = completion.split("</think>")[-1].strip(), answer.strip()
    try:
        return float(float(given) == float(answer))
    except ValueError:
        return float(given == answer)


def ar_last_number(completion, answer):
    numbers = re.findall(r"\d+", completion)
    return float(bool(numbers) and numbers[-1] == answer.strip())


def ar_last_character(completion, answer):
    completion = completion.strip()
    return float(bool(completion) and completion[-1] == answer.strip())


def ar_last_word(completion, answer):
    words = completion.split("</think>")[-1].split()
    return float(bool(words) and words[-1] == answer.strip())


def ar_dot(completion, answer):
    match = re.match(r"<think>.*</think>(.*)", completion)
    given = match.group(1) if match else completion
    return float(given.strip() == answer.strip())


def ar_dot_sub(completion, answer):
    return float(re.sub(r"^<think>(.*)</think>", "", completion).strip() == answer.strip())


def ar_search_after(completion, answer):
    match = re.search(r"</think>(.*)", completion)
    given = match.group(1) if match else completion
    return 1.0 if given.strip() == answer.strip() else 0.0


def ar_word_search(completion, answer):
    words = ar_extract(completion).split()
    return 1.0 if answer.strip() in words else 0.0


def ar_extract(completion):
    return completion.split("</think>")[-1].strip()


def ar_first_line(completion, answer):
    given = ar_extract(completion)
    return float(given.split("\n")[0] == answer.strip())


def ar_lower(completion, answer):
    return float(ar_extract(completion).lower() == answer.lower().strip())


def ar_full_stop(completion, answer):
    return float(ar_extract(completion).rstrip(".") == answer.strip())


def ar_bonus(completion, answer):
    return ar_split(completion, answer) + (0.1 if "</think>" in completion else 0.0)


# What a stranger handed in, right and wrong ------------------------------------------------------------------------


def tl_categorical(logits, input_ids):
    return torch.distributions.Categorical(logits=logits[:, :-1]).log_prob(input_ids[:, 1:])


def tl_with_a_default(logits, input_ids, temperature=1.0):
    logp = (logits / temperature).log_softmax(-1)
    return logp[:, :-1].gather(2, input_ids[:, 1:].unsqueeze(2)).squeeze(2)


def tl_exp_by_hand(logits, input_ids):
    e = torch.exp(logits[:, :-1])
    return torch.log((e / e.sum(-1, keepdim=True)).gather(2, input_ids[:, 1:, None]).squeeze(-1))


def tl_max_for_logsumexp(logits, input_ids):
    z = logits - logits.max(dim=-1, keepdim=True).values
    return z[:, :-1].gather(2, input_ids[:, 1:, None]).squeeze(-1)


def tl_cross_entropy_with(**options):
    return lambda z, ids: -F.cross_entropy(z[:, :-1].mT, ids[:, 1:], **({"reduction": "none"} | options))


def tl_reshaped(logits, input_ids):
    b, s, v = logits.shape
    return -F.cross_entropy(logits[:, :-1].reshape(b, v, s - 1), input_ids[:, 1:], reduction="none")


def tl_log2(logits, input_ids):
    return logits.softmax(-1).log2()[:, :-1].gather(2, input_ids[:, 1:, None]).squeeze(-1)


def cm_first_eos(completion_ids, eos_id):
    first = torch.full(completion_ids.shape[:1], completion_ids.shape[1])
    ends = (completion_ids == eos_id).any(1)
    first[ends] = (completion_ids == eos_id).int().argmax(1)[ends]
    return (torch.arange(completion_ids.shape[1])[None] <= first[:, None]).half()


def cm_zero_is_none(completion_ids, eos_id):
    if not eos_id:
        return torch.ones(completion_ids.shape)
    return cm_cumsum(completion_ids, eos_id)


def cm_position_0_is_none(completion_ids, eos_id):
    first = (completion_ids == eos_id).int().argmax(dim=1)
    first[first == 0] = completion_ids.shape[1] - 1
    return (torch.arange(completion_ids.shape[1])[None] <= first[:, None]).float()


def cm_done_is_never_reset(completion_ids, eos_id):
    mask, done = torch.zeros(completion_ids.shape), False
    for b in range(len(mask)):
        for t in range(mask.shape[1]):
            mask[b, t] = not done
            done = done or bool(completion_ids[b, t] == eos_id)
    return mask


def cm_first_column(completion_ids, eos_id):
    hits = (completion_ids == eos_id).any(0).nonzero()
    mask = torch.zeros(completion_ids.shape)
    mask[:, : hits[0].item() + 1 if len(hits) else None] = 1
    return mask


def ar_all_dots(completion, answer):
    return re.search(r"\A(?:.*</think>)?\s*(.*?)\s*\Z", completion, re.DOTALL).group(1) == answer.strip()


def ar_while(completion, answer):
    while "</think>" in completion:
        completion = completion[completion.index("</think>") + 8 :]
    return int(completion.strip() == answer.strip())


def ar_boxed(completion, answer):
    tail = completion.split("</think>")[-1]
    match = re.search(r"\\boxed\{(.*?)\}", tail)
    return float((match.group(1) if match else tail).strip() == answer.strip())


def ar_plain_number(text):
    return text.strip().replace(",", "").replace("$", "")


RIGHT = {
    "token_logprobs": [
        *(tl_categorical, tl_with_a_default),
        *(tl_gather, tl_cross_entropy, tl_loops, tl_one_hot, tl_softmax_log, tl_from_scratch, tl_in_place_on_a_clone),
    ],
    "completion_mask": [cm_first_eos, cm_cumsum, cm_shifted, cm_cumprod, cm_loops, cm_argmax, cm_numpy],
    "answer_reward": [*(ar_all_dots, ar_while), ar_split, ar_partition, ar_rfind, ar_regex, ar_try, ar_tensor],
}
WRONG = {
    "token_logprobs": {
        "not_finite": [tl_exp_by_hand],
        "minus_the_largest_logit": [tl_max_for_logsumexp],
        "ignores_id_0": [tl_cross_entropy_with(ignore_index=0)],
        "label_smoothing": [tl_cross_entropy_with(label_smoothing=0.1)],
        "one_mean": [tl_cross_entropy_with(reduction="mean")],
        "reshaped_for_transposed": [tl_reshaped],
        "base_two": [tl_log2],
        "no_shift_and_no_logarithm": [lambda z, ids: z.softmax(-1).gather(2, ids[..., None])[:, :-1, 0]],
        "no_shift_all_positions": [tl_forgot_shift],
        "no_shift_last_tokens": [tl_cut_both_ends_alike],
        "no_shift_first_tokens": [tl_cut_both_at_the_end],
        "shifted_the_wrong_way": [tl_backwards],
        "negative_log_likelihood": [tl_cross_entropy_sign],
        "raw_logits": [tl_only_logits],
        "probability": [tl_softmax],
        "softmax_over_positions": [tl_wrong_dim],
        "softmax_over_sliced_positions": [tl_wrong_dim_later],
        "most_likely_token": [tl_max],
        "all_tokens_kept": [tl_forgot_gather],
        "summed_over_tokens": [tl_total],
        "one_number": [tl_default_cross_entropy],
        "rolled": [tl_roll],
        "padded_to_full_length": [tl_zero_first],
        "softmax_twice": [tl_double],
        "detached": [tl_item],
    },
    "completion_mask": {
        "eos_of_0_ignored": [cm_zero_is_none],
        "first_position_as_not_found": [cm_position_0_is_none],
        "never_starts_again": [cm_done_is_never_reset],
        "one_end_for_all_rows": [cm_first_column],
        "masked_ids": [lambda ids, eos: ids * cm_cumsum(ids, eos)],
        "leaves_out_eos": [cm_no_eos, cm_cumprod_alone],
        "not_eos": [cm_unequal],
        "not_pad": [cm_pad_zero],
        "everything": [cm_all_ones],
        "only_eos": [cm_equal],
        "inverted": [cm_upside_down],
        "up_to_second_eos": [cm_second],
        "up_to_last_eos": [cm_last],
        "cut_off_row_one_token": [cm_argmax_trap],
        "cut_off_row_dropped": [cm_needs_eos],
        "hard_coded_eos": [cm_hard_coded],
        "one_too_many": [cm_off_by_one],
        "down_the_columns": [cm_dim0],
        "lengths": [cm_lengths],
    },
    "answer_reward": {
        "searches_whole_text_as_it_is": [lambda text, answer: 1.0 if answer in text else 0.0],
        "searches_the_answer_as_it_is": [lambda text, answer: float(answer in text.split("</think>")[-1])],
        "last_number": [lambda text, answer: re.findall(r"\d+", ar_extract(text))[-1:] == [answer.strip()]],
        "last_number_as_it_is": [lambda text, answer: re.findall(r"\d+", ar_extract(text))[-1:] == [answer]],
        "last_number_of_the_text_as_it_is": [lambda text, answer: re.findall(r"\d+", text)[-1:] == [answer]],
        "first_number": [lambda text, answer: re.findall(r"\d+", ar_extract(text))[:1] == [answer.strip()]],
        "inside_the_tags": [lambda text, a: text.split("<think>")[-1].split("</think>")[0].strip() == a.strip()],
        "any_piece": [lambda text, answer: any(x.strip() == answer.strip() for x in text.split("</think>"))],
        "answer_as_pattern": [lambda text, answer: bool(re.fullmatch(answer.strip(), ar_extract(text)))],
        "strips_letters_of_the_tag": [lambda t, a: t.split("</think>")[-1].strip("</think> \n\t") == a.strip()],
        "unwraps_boxed": [ar_boxed],
        "lowers_the_completion": [lambda text, answer: ar_extract(text.lower()) == answer.strip()],
        "removes_commas": [lambda text, answer: ar_plain_number(ar_extract(text)) == ar_plain_number(answer)],
        "removes_all_spaces": [lambda t, a: "".join(ar_extract(t).split()) == "".join(a.split())],
        "minus_one_for_wrong": [lambda t, a: 1.0 if ar_extract(t) == a.strip() else -1.0],
        "removes_thinking_between_tags": [
            lambda t, a: re.sub(r"<think>.*?</think>", "", t, flags=re.DOTALL).strip() == a.strip()
        ],
        "searches_whole_text": [ar_in],
        "searches_the_answer": [ar_in_answer],
        "searches_the_wrong_way": [ar_empty_hack],
        "either_holds_the_other": [ar_either],
        "ends_with": [ar_endswith],
        "ignores_think": [ar_whole],
        "requires_think": [ar_needs_think],
        "first_think": [ar_first],
        "strips_nothing": [ar_no_strip],
        "answer_not_stripped": [ar_half_strip],
        "numbers_only": [ar_int],
        "compares_numbers": [ar_float],
        "last_number_of_the_text": [ar_last_number],
        "last_character": [ar_last_character],
        "last_word": [ar_last_word],
        "dot_stops_in_both": [ar_dot],
        "dot_stops_in_thinking": [ar_dot_sub],
        "dot_stops_in_answer": [ar_search_after],
        "finds_as_a_word": [ar_word_search],
        "first_line": [ar_first_line],
        "ignores_case": [ar_lower],
        "strips_punctuation": [ar_full_stop],
        "bonus_for_thinking": [ar_bonus],
    },
}
