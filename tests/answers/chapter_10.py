"""Answers to chapter 10's exercises as learners write them: right ones in many styles, wrong ones by diagnosis."""

import re
from collections import Counter

import numpy as np
import torch

# language_consistency --------------------------------------------------------------------------------------------
ARABIC, CHINESE = "0123456789", "〇一二三四五六七八九"


def lc_list(scratchpad, numerals):
    digits = [c for c in scratchpad if c in "0123456789〇一二三四五六七八九"]
    if not digits:
        return 1.0
    return sum(c in numerals for c in digits) / len(digits)


def lc_loop(scratchpad, numerals):
    wanted = total = 0
    for character in scratchpad:
        if character in ARABIC or character in CHINESE:
            total += 1
            wanted += character in numerals
    return wanted / total if total > 0 else 1


def lc_regex(scratchpad, numerals):
    digits = re.findall("[0-9〇一二三四五六七八九]", scratchpad)
    return 1.0 if not digits else len(re.findall(f"[{numerals}]", scratchpad)) / len(digits)


def lc_counter(scratchpad, numerals):
    counts = Counter(scratchpad)
    arabic, chinese = (sum(counts[c] for c in alphabet) for alphabet in (ARABIC, CHINESE))
    mine = arabic if numerals == ARABIC else chinese
    return mine / (arabic + chinese) if arabic + chinese else 1.0


def lc_count(scratchpad, numerals):
    ours = sum(scratchpad.count(numeral) for numeral in numerals)
    every = sum(map(scratchpad.count, ARABIC + CHINESE))
    try:
        return ours / every
    except ZeroDivisionError:
        return 1.0


def lc_the_other(scratchpad, numerals):
    """1 minus the share of what is wrong."""
    foreign = set(ARABIC + CHINESE) - set(numerals)
    n = sum(c in foreign or c in numerals for c in scratchpad)
    return 1 - sum(c in foreign for c in scratchpad) / max(n, 1)


def lc_translate(scratchpad, numerals):
    marks = scratchpad.translate(str.maketrans(ARABIC + CHINESE, "a" * 10 + "c" * 10, "ac"))
    mine = marks.count("a" if "0" in numerals else "c")
    return np.float64(mine / (marks.count("a") + marks.count("c"))) if {"a", "c"} & set(marks) else np.float64(1)


def lc_tensor(scratchpad, numerals):
    found = torch.tensor([float(c in numerals) for c in scratchpad if c in ARABIC + CHINESE])
    return found.mean() if len(found) else torch.tensor(1.0)


def lc_isdecimal_ascii(scratchpad, numerals):
    digits = [c for c in scratchpad if (c.isascii() and c.isdigit()) or c in CHINESE]
    return len([c for c in digits if c in numerals]) / len(digits) if digits else True


def lc_of(counted, none=1.0, wanted=None):
    """The common shape, with other digits, another default or other numerals."""

    def reward(scratchpad, numerals):
        digits = [c for c in scratchpad if counted(c)]
        return sum(c in (wanted or numerals) for c in digits) / len(digits) if digits else none

    return reward


def lc_digit(c):
    return c in ARABIC + CHINESE


def lc_by(whole, none=lambda scratchpad: False):
    """The digits asked for, divided by something; 1.0 where that is 0, or where it is said to be."""

    def reward(scratchpad, numerals):
        n = whole(scratchpad)
        return 1.0 if n == 0 or none(scratchpad) else sum(c in numerals for c in scratchpad) / n

    return reward


def lc_runs(pattern, test):
    def reward(scratchpad, numerals):
        numbers = re.findall(pattern, scratchpad)
        return sum(test(n, numerals) for n in numbers) / len(numbers) if numbers else 1.0

    return reward


def lc_w_sets(scratchpad, numerals):
    digits = set(scratchpad) & set(ARABIC + CHINESE)
    return len(digits & set(numerals)) / len(digits) if digits else 1.0


# keep_right ------------------------------------------------------------------------------------------------------


def kr_cumsum(rewards, most):
    right = rewards >= 1
    return right & (right.cumsum(dim=1) <= most)


def kr_loops(rewards, most):
    keep = torch.zeros_like(rewards, dtype=torch.bool)
    for p in range(rewards.shape[0]):
        kept = 0
        for g in range(rewards.shape[1]):
            if rewards[p, g] >= 1 and kept < most:
                keep[p, g] = True
                kept += 1
    return keep


def kr_nonzero(rewards, most):
    rows = []
    for row in rewards:
        places = torch.nonzero(row >= 1).flatten()[:most]
        mask = torch.zeros(len(row), dtype=torch.bool)
        mask[places] = True
        rows.append(mask)
    return torch.stack(rows)


def kr_before(rewards, most):
    """Counts the right ones strictly before."""
    right = rewards.ge(1).long()
    return torch.logical_and(right.bool(), right.cumsum(1) - right < most)


def kr_lists(rewards, most):
    table = [[r >= 1 and sum(x >= 1 for x in row[: g + 1]) <= most for g, r in enumerate(row)] for row in
             rewards.tolist()]  # fmt: skip
    return torch.tensor(table)


def kr_numpy(rewards, most):
    right = rewards.numpy() >= 1
    return right & (np.cumsum(right, axis=1) <= most)


def kr_floats(rewards, most):
    right = (rewards >= 1).float()
    return right * (right.cumsum(1) <= most).float()


def kr_sorted(rewards, most):
    """Right ones first, in their order, and back again."""
    right = (rewards >= 1).int()
    order = right.argsort(dim=1, descending=True, stable=True)
    first = torch.zeros_like(right).bool().scatter_(1, order[:, :most], True)
    return first & right.bool()


def kr_triangle(rewards, most):
    right = (rewards >= 1).float()
    before = right @ torch.triu(torch.ones(right.shape[1], right.shape[1]))
    return (right > 0) & (before <= most)


def kr_from(accept):
    """The right selection of what is accepted otherwise."""

    def keep(rewards, most):
        right = accept(rewards)
        return right & (right.cumsum(1) <= most)

    return keep


def kr_w_argsort(rewards, most):
    keep = torch.zeros_like(rewards, dtype=torch.bool)
    for p, row in enumerate(rewards.tolist()):
        for g in sorted(range(len(row)), key=lambda g: -row[g])[:most]:
            keep[p, g] = True
    return keep


def kr_w_last(rewards, most):
    keep = torch.zeros_like(rewards, dtype=torch.bool)
    for p, row in enumerate(rewards):
        keep[p, torch.nonzero(row >= 1).flatten()[-most:]] = True
    return keep


RIGHT = {
    "language_consistency": [
        *(lc_list, lc_loop, lc_regex, lc_counter, lc_count, lc_the_other, lc_translate, lc_tensor, lc_isdecimal_ascii),
    ],
    "keep_right": [
        *(kr_cumsum, kr_loops, kr_nonzero, kr_before, kr_lists, kr_numpy, kr_floats, kr_sorted, kr_triangle),
    ],
}
WRONG = {
    "language_consistency": {
        "of_all_characters": [lc_by(len)],
        "of_all_characters_and_zero_if_empty": [lambda s, n: sum(c in n for c in s) / max(len(s), 1)],
        "of_all_characters_if_there_is_a_digit": [lc_by(len, lambda s: not any(map(lc_digit, s)))],
        "zero_without_a_digit": [
            *(lc_of(lc_digit, 0.0), lambda s, n: sum(c in n for c in s) / max(1, sum(map(lc_digit, s)))),
        ],
        "half_without_a_digit": [lc_of(lc_digit, 0.5)],
        "arabic_always": [lambda s, n: lc_list(s, ARABIC), lc_of(lc_digit, wanted="0123456789")],
        "chinese_always": [lambda s, n: lc_regex(s, CHINESE)],
        "arabic_always_and_zero_without_a_digit": [lc_of(lc_digit, 0.0, ARABIC)],
        "of_the_wanted_digits": [lambda s, n: lc_of(n.__contains__)(s, n), lambda s, n: 1.0],
        "of_the_wanted_digits_and_zero_without": [lambda s, n: lc_of(n.__contains__, 0.0)(s, n)],
        "the_other_numerals": [lambda s, n: lc_list(s, CHINESE if n == ARABIC else ARABIC)],
        "one_minus": [lambda s, n: 1 - lc_list(s, n)],
        "distinct_digits": [lc_w_sets],
        "distinct_digits_and_zero_without": [lambda s, n: lc_of(lc_digit, 0.0)("".join(set(s)), n)],
        "all_or_nothing": [lambda s, n: float(all(c in n for c in s if lc_digit(c))), lambda s, n: lc_list(s, n) // 1],
        "one_is_enough": [lambda s, n: bool(set(s) & set(n)) or not set(s) & set(ARABIC + CHINESE)],
        "more_than_half": [lambda s, n: lc_list(s, n) >= 0.5],
        "numbers_for_digits": [lc_runs(f"[{ARABIC}]+|[{CHINESE}]+", lambda number, n: number[0] in n)],
        "numbers_of_either_kind": [lc_runs(f"[{ARABIC}{CHINESE}]+", lambda number, n: set(number) <= set(n))],
        "counted": [lambda s, n: sum(c in n for c in s), lambda s, n: len(re.findall(f"[{n}]", s))],
        "isdigit": [lc_of(str.isdigit)],
        "isdecimal": [lc_of(str.isdecimal), lc_of(lambda c: re.match(r"\d", c))],
        "isdigit_and_zero_without": [lc_of(str.isdigit, 0.0)],
        "isdecimal_and_zero_without": [lc_of(str.isdecimal, 0)],
        "only_arabic_digits": [lc_of(ARABIC.__contains__), lc_of(lambda c: re.match("[0-9]", c))],
        "divided_by_isdigit": [lc_by(lambda s: sum(map(str.isdigit, s)))],
        "divided_by_isdecimal": [lc_by(lambda s: len(re.findall(r"\d", s)))],
        "superscripts": [lc_of(lambda c: c in CHINESE or c.isdigit())],
        "other_scripts": [lc_of(lambda c: re.match(rf"[\d{CHINESE}]", c))],
        "isnumeric": [lc_of(str.isnumeric)],
        "zero_left_out": [lambda s, n: lc_list(s.replace("〇", ""), n)],
        "another_zero": [lambda s, n: lc_of("0123456789零一二三四五六七八九".__contains__)(s, n)],
        "range_of_characters": [lc_of(lambda c: re.match("[0-9〇一-九]", c))],
        "rounded_to_hundredths": [lambda s, n: round(lc_list(s, n), 2), lambda s, n: float(f"{lc_list(s, n):.2f}")],
        "rounded_to_tenths": [lambda s, n: round(lc_list(s, n), 1)],
        "ratio_of_the_two": [lambda s, n: lc_by(lambda s: sum(lc_digit(c) and c not in n for c in s))(s, n)],
        "less_the_others": [lambda s, n: lc_list(s, n) - (1 - lc_list(s, n))],
        "divided_by_ten": [lc_by(lambda s: 10, lambda s: not any(map(lc_digit, s)))],
        "constant_factor": [lambda s, n: 100 * lc_list(s, n)],
        "no_digit": [lambda s, n: lc_list(s, n) if not s or any(map(lc_digit, s)) else 0.0],
        "no_text": [lambda s, n: lc_list(s, n) if s else 0.0],
        "raises": [lambda s, n: sum(c in n for c in s) / sum(map(lc_digit, s)), lambda s, n: lc_list(s, n) / bool(s)],
        "not_finite": [lambda s, n: torch.tensor([float(c in n) for c in s if lc_digit(c)]).mean()],
        "odd_scratchpad": [lambda s, n: lc_list(s.encode().decode(), n), lambda s, n: lc_list(s.split("\0")[0], n)],
        "returns_nothing": [lambda s, n: print(lc_list(s, n))],
    },
    "keep_right": {
        "accepts_partial": [kr_from(lambda r: r > 0)],
        "accepts_half": [kr_from(lambda r: r >= 0.5)],
        "accepts_above_half": [kr_from(lambda r: r.round() >= 1), kr_from(lambda r: r > 0.5)],
        "accepts_all_but_zero": [kr_from(lambda r: r.bool())],
        "accepts_by_size": [kr_from(lambda r: r.abs() >= 1)],
        "only_exactly_one": [kr_from(lambda r: r == 1)],
        "only_above_one": [kr_from(lambda r: r > 1)],
        "above_the_mean": [kr_from(lambda r: r > r.mean(1, keepdim=True))],
        "best_of_the_batch": [kr_from(lambda r: r >= r.max())],
        "limit_on_the_batch": [lambda r, m: (r >= 1) & ((r >= 1).flatten().cumsum(0) <= m).view_as(r)],
        "last_ones": [kr_w_last, lambda r, m: kr_loops(r.flip(1), m).flip(1)],
        "best_ones": [lambda r, m: kr_w_argsort(r, m) & (r >= 1)],
        "best_ones_right_or_not": [kr_w_argsort],
        "first_columns": [lambda r, m: torch.cat([r[:, :m] >= 1, torch.zeros_like(r[:, m:]).bool()], dim=1)],
        "first_columns_right_or_not": [lambda r, m: torch.arange(r.shape[1]).expand_as(r) < m],
        "one_too_few": [lambda r, m: (r >= 1) & ((r >= 1).cumsum(1) < m)],
        "one_too_many": [lambda r, m: (r >= 1) & ((r >= 1).cumsum(1) - (r >= 1).long() <= m)],
        "counted_only": [lambda r, m: torch.cumsum(r >= 1, dim=1) <= m],
        "adds_up_rewards": [lambda r, m: (r >= 1) & (r.cumsum(1) <= m)],
        "counts_partial_ones": [lambda r, m: (r >= 1) & ((r > 0).cumsum(1) <= m)],
        "drops_prompts_with_fewer": [lambda r, m: kr_cumsum(r, m) & ((r >= 1).sum(1, keepdim=True) >= m)],
        "drops_prompts_with_more": [lambda r, m: (r >= 1) & ((r >= 1).sum(1, keepdim=True) <= m)],
        "all_accepted": [lambda r, m: r >= 1],
        "one_a_prompt": [lambda r, m: kr_loops(r, 1)],
        "down_the_columns": [lambda r, m: (r >= 1) & ((r >= 1).cumsum(0) <= m)],
        "keeps_the_rejected": [kr_from(lambda r: r < 1)],
        "upside_down": [lambda r, m: ~kr_cumsum(r, m)],
        "rewards_of_the_kept": [lambda r, m: torch.where(kr_cumsum(r, m), r, 0.0)],
        "places_of_the_kept": [lambda r, m: (r >= 1).cumsum(1) * kr_cumsum(r, m)],
        "shares": [lambda r, m: kr_cumsum(r, m) / kr_cumsum(r, m).sum(1, keepdim=True).clamp(min=1)],
        "one_number_a_prompt": [lambda r, m: kr_cumsum(r, m).sum(1)],
        "accepted_prompts": [lambda r, m: (r >= 1).any(1)],
        "wrong_shape": [lambda r, m: torch.nonzero(kr_cumsum(r, m)), lambda r, m: r[kr_cumsum(r, m)]],
        "wrong_type": [lambda r, m: kr_cumsum(r, m).tolist()],
        "always_zero": [lambda r, m: torch.zeros_like(r)],
        "returns_nothing": [lambda r, m: print(kr_cumsum(r, m))],
    },
}
