"""Answers to chapter 09's exercises as learners write them: right ones in many styles, wrong ones by diagnosis."""

import math
import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F

# format_reward ---------------------------------------------------------------------------------------------------
TAGS = ["<think>", "</think>", "<answer>", "</answer>"]


def fr_tempered(completion):
    free = r"(?:(?!</?think>|</?answer>).)*"
    return 1.0 if re.fullmatch(rf"\s*<think>{free}</think>\s*<answer>{free}</answer>\s*", completion, re.S) else 0.0


def fr_count_then_match(completion):
    if any(completion.count(tag) != 1 for tag in TAGS):
        return 0
    return int(bool(re.match(r"^\s*<think>.*?</think>\s*<answer>.*?</answer>\s*$", completion, re.DOTALL)))


def fr_strip_and_dollar(completion):
    """`$` lets a line break pass, which is white space."""
    pattern = re.compile(r"^<think>(.*?)</think>\s*<answer>(.*?)</answer>$", re.DOTALL)
    found = pattern.match(completion.strip())
    return found is not None and not any(tag in part for part in found.groups() for tag in TAGS)


def fr_by_hand(completion):
    text = completion.strip()
    if [text.count(tag) for tag in TAGS] != [1] * 4 or not text.startswith("<think>"):
        return 0.0
    rest = text.split("</think>")[1].lstrip()
    return float(rest.startswith("<answer>") and text.endswith("</answer>"))


def fr_split(completion):
    pieces = re.split(r"(</?(?:think|answer)>)", completion)
    return torch.tensor(float(pieces[1::2] == TAGS and not "".join(pieces[0:1] + pieces[4:5] + pieces[8:]).strip()))


def fr_any_character(completion):
    return np.float64(
        all(completion.count(tag) == 1 for tag in TAGS)
        and bool(re.fullmatch(r"\s*<think>[\s\S]*</think>\s*<answer>[\s\S]*</answer>\s*", completion))
    )


def fr_hangs(completion):
    """Right, but `(.|\\s)*` tries every space in two ways."""
    once = all(completion.count(tag) == 1 for tag in TAGS)
    return once and bool(re.fullmatch(r"\s*<think>(.|\s)*</think>\s*<answer>(.|\s)*</answer>\s*", completion))


def fr_w_ignores_case(completion):
    free = r"(?:(?!</?think>|</?answer>).)*"
    form = rf"\s*<think>{free}</think>\s*<answer>{free}</answer>\s*"
    return float(bool(re.fullmatch(form, completion, re.DOTALL | re.IGNORECASE)))


def fr_w(pattern, flags=0, match=re.match, once=False):
    """What recipes hold: a pattern and a call."""

    def reward(completion):
        return 1.0 if match(pattern, completion, flags) and (not once or fr_once(completion)) else 0.0

    return reward


def fr_once(completion):
    return all(completion.count(tag) == 1 for tag in TAGS)


def fr_w_tokens(completion):
    score = 0.0
    for tag in TAGS:
        if completion.count(tag) == 1:
            score += 0.25
    return score


def fr_w_opening_tags(completion):
    text = completion.strip()
    ends = text.startswith("<think>") and text.endswith("</answer>")
    return float(ends and text.count("<think>") == 1 and text.count("<answer>") == 1 and "</think>" in text)


def fr_w_index(completion):
    places = [completion.index(tag) for tag in TAGS]
    return float(places == sorted(places))


def fr_w_bytes(completion):
    return fr_tempered(completion.encode().decode())


def fr_w_find(completion):
    places = [completion.find(tag) for tag in TAGS]
    return float(-1 not in places and places == sorted(places))


def fr_w_prints(completion):
    print(fr_tempered(completion))


# number_reward ---------------------------------------------------------------------------------------------------
BLOCK = "(?s)<answer>(.*?)</answer>"
NUMBER = r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"


def one_answer(completion):
    whole = re.fullmatch(r"(?s)((?!</?answer>).)*<answer>(?P<said>((?!</?answer>).)*)</answer>((?!</?answer>).)*",
                         completion)  # fmt: skip
    return whole["said"].strip() if whole else None


def nr_decimal(completion, answer):
    said, right = one_answer(completion), answer.strip()
    if said is None or not re.fullmatch(NUMBER, said, re.ASCII) or not re.fullmatch(NUMBER, right, re.ASCII):
        return 0.0
    return 1.0 if Decimal(said.replace(",", "")) == Decimal(right.replace(",", "")) else 0.0


def nr_fraction(completion, answer):
    if completion.count("<answer>") != 1 or completion.count("</answer>") != 1:
        return False
    _, _, rest = completion.partition("<answer>")
    said, closed, _ = rest.partition("</answer>")
    try:
        return bool(closed) and nr_read(said) == nr_read(answer)
    except ValueError:
        return False


def nr_read(text):
    """Exponents, fractions and other scripts' digits as Python reads them; commas only where they belong."""
    text = text.strip()
    whole, _, decimals = text.partition(".")
    first, *groups = whole.lstrip("+-").split(",")
    if groups and (not 1 <= len(first) <= 3 or any(len(group) != 3 for group in groups)) or "," in decimals:
        raise ValueError(text)
    return Fraction(text.replace(",", ""))


def nr_texts(completion, answer):
    """Compares texts, once both are written in one way."""

    def plain(text):
        if not re.fullmatch(NUMBER, text.strip()):
            return None
        whole, _, decimals = text.strip().lstrip("+").replace(",", "").partition(".")
        return whole, decimals.rstrip("0")

    said = one_answer(completion)
    return int(said is not None and plain(said) is not None and plain(said) == plain(answer))


def nr_percent(completion, answer):
    """Percents and exponents are left open."""
    said = one_answer(completion)
    try:
        if said is None or ("," in said and not re.fullmatch(NUMBER, said)):
            return torch.tensor(0.0)
        scale = 100 if said.endswith("%") else 1
        value = Decimal(said.removesuffix("%").replace(",", "")) / scale
        exact = scale == 1 and Decimal(said.replace(",", "")) == Decimal(answer.replace(",", ""))
        return torch.tensor(float(exact or (scale == 100 and value == Decimal(answer))))
    except InvalidOperation:
        return torch.tensor(0.0)


def nr_hangs(completion, answer):
    found = re.fullmatch(r"(?:.|\s)*<answer>(?:.|\s)*</answer>(?:.|\s)*", completion)
    return nr_decimal(completion, answer) if found else 0.0


def nr_tagged(said):
    return f"<answer>{said}</answer>"


def nr_numbers(text):
    return re.findall(r"-?\d[\d,]*(?:\.\d+)?", text) or ["x"]


def nr_search(equal, flags=re.DOTALL):
    """The common shape: search for the answer, then compare."""

    def reward(completion, answer):
        found = re.search(r"<answer>(.*?)</answer>", completion, flags)
        return 1.0 if found and equal(found.group(1), answer) else 0.0

    return reward


def nr_lone(equal):
    return lambda completion, answer: float((said := one_answer(completion)) is not None and equal(said, answer))


def floats(said, answer):
    try:
        return float(said.replace(",", "")) == float(answer.replace(",", ""))
    except ValueError:
        return False


def decimals(said, answer):
    try:
        return Decimal(said.replace(",", "")) == Decimal(answer.replace(",", ""))
    except InvalidOperation:
        return False


def floats_with_commas(said, answer):
    try:
        return float(said) == float(answer)
    except ValueError:
        return False


def checked_floats(said, answer):
    return bool(re.fullmatch(NUMBER, said)) and floats(said, answer)


def near(said, answer):
    return checked_floats(said, said) and abs(float(said.replace(",", "")) - float(answer.replace(",", ""))) < 1e-6


def not_far(said, answer):
    """`nan > 1e-6` is False."""
    try:
        return not abs(float(said.replace(",", "")) - float(answer.replace(",", ""))) > 1e-6
    except ValueError:
        return False


def evaluated(said, answer):
    try:
        return eval(said) == eval(answer)
    except Exception:
        return False


def nr_w_last_number(completion, answer):
    numbers = re.findall(r"-?\d+(?:,\d{3})*(?:\.\d+)?", completion)
    return float(bool(numbers) and Decimal(numbers[-1].replace(",", "")) == Decimal(answer.replace(",", "")))


def nr_w_digits(completion, answer):
    said = one_answer(completion)
    return float(said is not None and "".join(filter(str.isdigit, said)) == "".join(filter(str.isdigit, answer)))


def nr_w_int(completion, answer):
    """`int` refuses more than 4300 digits."""
    said = one_answer(completion)
    if said is None or not all(re.fullmatch(NUMBER, text.strip(), re.ASCII) for text in (said, answer)):
        return 0.0
    parts = [text.strip().replace(",", "").partition(".") for text in (said, answer)]
    return float(len({(int(whole), decimals.rstrip("0")) for whole, _, decimals in parts}) == 1)


def nr_w_spaced_sign(completion, answer):
    """The pattern lets a space behind the sign through, and Decimal does not read it."""
    said = one_answer(completion)
    spelt = r"[+-]?\s*(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?"
    if said is None or not re.fullmatch(spelt, said):
        return 0.0
    return float(Decimal(said.replace(",", "")) == Decimal(answer.replace(",", "")))


def nr_w_whole_answers(completion, answer):
    """Counts what a pattern finds, not the tags."""
    found = re.findall(BLOCK, completion)
    return nr_decimal(nr_tagged(found[0]), answer) if len(found) == 1 else 0.0


def nr_w_bonus(completion, answer):
    return 0.1 * (one_answer(completion) is not None) + 0.9 * nr_decimal(completion, answer)


def nr_w_lone_tag(completion, answer):
    _, opened, rest = completion.rpartition("<answer>")
    return float(opened != "" and decimals(rest.split("</answer>")[0], answer))


# mixed_share -----------------------------------------------------------------------------------------------------
def ms_loops(success, group_size):
    shares = [1 - p**group_size - (1 - p) ** group_size for p in success.tolist()]
    return sum(shares) / len(shares)


def ms_counts(success, group_size):
    """Adds up the chances of 1 to G - 1 right answers."""
    total = 0.0
    for k in range(1, group_size):
        total = total + math.comb(group_size, k) * success**k * (1 - success) ** (group_size - k)
    return torch.as_tensor(total * torch.ones_like(success)).mean()


def ms_outcomes(success, group_size):
    chances = []
    for p in success.double():
        outcomes = (outcome for outcome in product([1, 0], repeat=group_size) if 0 < sum(outcome) < group_size)
        chances.append(sum(p ** sum(outcome) * (1 - p) ** (group_size - sum(outcome)) for outcome in outcomes))
    return float(sum(chances) / len(chances))


def ms_numpy(success, group_size):
    p = success.numpy()
    return np.mean(1 - np.power(p, group_size) - np.power(1 - p, group_size))


def ms_pass_at_k(success, group_size):
    """P(some right) + P(some wrong) - 1."""
    return ((1 - (1 - success) ** group_size) + (1 - success**group_size) - 1).mean(dim=0)


def ms_logs(success, group_size):
    all_right, all_wrong = torch.exp(group_size * success.log()), torch.exp(group_size * torch.log1p(-success))
    return 1 - (all_right + all_wrong).mean().item()


# bradley_terry_loss ----------------------------------------------------------------------------------------------
def bt_logsigmoid(chosen, rejected):
    return -F.logsigmoid(chosen - rejected).mean()


def bt_softplus(chosen, rejected):
    return F.softplus(rejected - chosen).mean()


def bt_logits(chosen, rejected):
    return F.binary_cross_entropy_with_logits(chosen - rejected, torch.ones_like(chosen))


def bt_cross_entropy(chosen, rejected):
    pairs = torch.stack([chosen, rejected], dim=1)
    return F.cross_entropy(pairs, torch.zeros(len(chosen), dtype=torch.long))


def bt_log_softmax(chosen, rejected):
    return -torch.stack([chosen, rejected]).log_softmax(dim=0)[0].sum() / chosen.numel()


def bt_logaddexp(chosen, rejected):
    return (torch.logaddexp(chosen, rejected) - chosen).mean()


def bt_by_hand(chosen, rejected):
    x = chosen - rejected
    return (torch.clamp(-x, min=0) + torch.log1p(torch.exp(-x.abs()))).mean()


def bt_loop(chosen, rejected):
    total = 0.0
    for c, r in zip(chosen, rejected, strict=True):
        total = total + F.softplus(r - c)
    return total / len(chosen)


def bt_list_of_one(chosen, rejected):
    return F.softplus(rejected.double() - chosen.double()).mean().reshape(1)


def bt_w_margin(chosen, rejected):
    return F.soft_margin_loss(chosen - rejected, torch.ones_like(chosen))


def bt_w_double(chosen, rejected):
    return -torch.sigmoid((chosen - rejected).double()).log().mean()


def bt_w_all_pairs(chosen, rejected):
    return F.softplus(rejected - chosen.unsqueeze(1)).mean()


def bt_w_accuracy(chosen, rejected):
    return (chosen < rejected).float().mean()


RIGHT = {
    "format_reward": [
        *(fr_tempered, fr_count_then_match, fr_strip_and_dollar, fr_by_hand, fr_split, fr_any_character, fr_hangs),
    ],
    "number_reward": [nr_decimal, nr_fraction, nr_texts, nr_percent, nr_hangs],
    "mixed_share": [ms_loops, ms_counts, ms_outcomes, ms_numpy, ms_pass_at_k, ms_logs],
    "bradley_terry_loss": [
        *(bt_logsigmoid, bt_softplus, bt_logits, bt_cross_entropy, bt_log_softmax, bt_logaddexp, bt_by_hand, bt_loop),
        bt_list_of_one,
    ],
}
FORM = r"\s*<think>.*?</think>\s*<answer>.*?</answer>\s*"
WRONG = {
    "format_reward": {
        "dot_stops": [fr_w(FORM, match=re.fullmatch, once=True)],
        "pays_capitals": [lambda c: fr_tempered(c.lower()), fr_w_ignores_case],
        "dot_stops_and_second_try": [fr_w(FORM, match=re.fullmatch), fr_w(FORM + r"\Z")],
        "dot_stops_and_text_after": [fr_w(FORM)],
        "dot_stops_and_text_around": [fr_w(r"<think>.*?</think>\s*<answer>.*?</answer>", match=re.search)],
        "dot_stops_and_no_white_space": [fr_w(r"^<think>.*?</think><answer>.*?</answer>$")],
        "dot_stops_and_no_space_around": [fr_w(r"^<think>.*?</think>\s*<answer>.*?</answer>$")],
        "dot_stops_in_the_thoughts": [
            lambda c: fr_once(c) and bool(re.fullmatch(r"\s*<think>.*</think>\s*<answer>[^§]*</answer>\s*", c))
        ],
        "second_try": [
            *(fr_w(FORM, re.S, re.fullmatch), fr_w(FORM.replace("*?", "*"), re.S, re.fullmatch)),
            fr_w(rf"^{FORM}$", re.DOTALL),
        ],
        "text_after": [fr_w(FORM, re.DOTALL, once=True)],
        "text_after_and_second_try": [fr_w(FORM, re.DOTALL), fr_w(rf"^{FORM.replace('*?', '*')}", re.DOTALL)],
        "line_after_and_second_try": [fr_w(r"^<think>.*?</think>\s*<answer>.*?</answer>$", re.DOTALL | re.MULTILINE)],
        "text_around": [fr_w(FORM, re.DOTALL, re.search, once=True)],
        "text_around_and_second_try": [
            fr_w(FORM, re.DOTALL, re.search),
            lambda c: len(re.findall(f"(?s){FORM}", c)) > 0,
        ],
        "text_between": [fr_w(r"\s*<think>.*</think>.*<answer>.*</answer>\s*", re.DOTALL, re.fullmatch, once=True)],
        "text_between_and_second_try": [fr_w(r"\s*<think>.*</think>.*<answer>.*</answer>\s*", re.DOTALL, re.fullmatch)],
        "no_white_space": [fr_w("<think>.*</think><answer>.*</answer>", re.DOTALL, re.fullmatch, once=True)],
        "no_white_space_and_second_try": [fr_w("<think>.*?</think><answer>.*?</answer>", re.DOTALL, re.fullmatch)],
        "no_space_between": [fr_w(FORM.replace(r"k>\s*", "k>"), re.DOTALL, re.fullmatch, once=True)],
        "no_space_between_and_second_try": [
            lambda c: bool(re.fullmatch("<think>.*</think><answer>.*</answer>", c.strip(), re.DOTALL)),
        ],
        "no_space_around": [fr_w(FORM[3:-3], re.DOTALL, re.fullmatch, once=True)],
        "no_space_around_and_second_try": [
            *(fr_w(rf"^{FORM[3:-3]}$", re.DOTALL), fr_w(FORM[3:-3], re.DOTALL, re.fullmatch)),
        ],
        "wants_line_breaks": [fr_w(r"\s*<think>\n.*?\n</think>\n<answer>\n.*?\n</answer>\s*", re.DOTALL, re.fullmatch)],
        "wants_contents": [fr_w(FORM.replace("*?", "+?"), re.DOTALL, re.fullmatch, once=True)],
        "wants_contents_and_second_try": [fr_w(FORM.replace("*?", "+?"), re.DOTALL, re.fullmatch)],
        "no_less_than_sign": [fr_w(FORM.replace(".*?", "[^<]*"), match=re.fullmatch)],
        "closing_tag_optional": [fr_w(r"\s*<think>.*?</think>\s*<answer>.*?(</answer>|\Z)", re.DOTALL)],
        "tags_anywhere": [lambda c: all(tag in c for tag in TAGS), lambda c: float(sum(tag in c for tag in TAGS) == 4)],
        "counted_only": [fr_once],
        "order_only": [lambda c: [m.group() for m in re.finditer(r"</?(?:think|answer)>", c)] == TAGS],
        "both_ends": [lambda c: c.strip().startswith("<think>") and c.strip().endswith("</answer>")],
        "both_ends_and_counted": [
            lambda c: c.lstrip()[:7] == "<think>" and c.rstrip()[-9:] == "</answer>" and fr_once(c),
        ],
        "answer_block_only": [fr_w("<answer>.*?</answer>", re.DOTALL, re.search)],
        "thinking_block_only": [lambda c: len(re.findall("(?s)<think>.*?</think>", c)) >= 1],
        "two_blocks": [
            lambda c: len(re.findall("(?s)<think>.*?</think>", c)) > 0 < len(re.findall("(?s)<answer>.*?</answer>", c)),
        ],
        "part_for_each_tag": [fr_w_tokens],
        "minus_one": [lambda c: 1.0 if fr_tempered(c) else -1.0],
        "upside_down": [lambda c: 1 - fr_tempered(c)],
        "pays_everything": [lambda c: True],
        "pays_text_between": [fr_w_opening_tags],
        "pays_text_after": [fr_w_find],
        "pays_an_open_answer": [lambda c: fr_tempered(c) or (fr_tempered(c + "</answer>") and "</think><" in c)],
        "empty_answer_unpaid": [lambda c: fr_tempered(c) and "<answer></answer>" not in c],
        "raises": [fr_w_index],
        "odd_text": [fr_w_bytes, lambda c: fr_tempered(c) if "\0" not in c else None],
        "returns_nothing": [fr_w_prints],
        "always_zero": [fr_w(r"^<reasoning>.*?</reasoning>\s*<answer>.*?</answer>$", re.DOTALL), lambda c: 0.0],
    },
    "number_reward": {
        "searches_whole_text": [lambda c, a: float(a in c)],
        "searches_the_answer": [nr_lone(lambda said, a: a in said)],
        "searches_the_first_answer": [nr_search(lambda said, a: a in said)],
        "searches_the_wrong_way": [nr_lone(lambda said, a: said in a)],
        "either_holds_the_other": [nr_lone(lambda said, a: said in a or a in said)],
        "last_number_of_the_text": [nr_w_last_number],
        "first_number_of_the_text": [lambda c, a: decimals((re.findall(NUMBER, c) or ["x"])[0], a)],
        "first_number_in_the_answer": [nr_lone(lambda said, a: nr_decimal(nr_tagged(nr_numbers(said)[0]), a))],
        "last_number_in_the_answer": [
            nr_lone(lambda said, a: nr_decimal(nr_tagged(nr_numbers(said)[-1]), a)),
            nr_lone(nr_w_last_number),
        ],
        "any_number_in_the_answer": [
            nr_lone(lambda said, a: any(nr_decimal(nr_tagged(number), a) for number in nr_numbers(said)))
        ],
        "pays_the_first_of_two": [
            nr_lone(lambda said, a: decimals((re.findall(r"-?[\d,.]+", said) or "x")[0], a)),
            nr_lone(lambda said, a: decimals(said.split()[0], a) if said else False),
        ],
        "pays_the_last_answer": [
            lambda c, a: nr_decimal("".join(re.findall(r"<answer>(?:(?!<answer>).)*?</answer>", c, re.S)[-1:]), a)
        ],
        "first_answer": [nr_search(lambda said, a: nr_decimal(nr_tagged(said), a))],
        "last_answer": [lambda c, a: nr_decimal(nr_tagged((re.findall(BLOCK, c) or ["x"])[-1]), a)],
        "any_answer": [lambda c, a: any(nr_decimal(nr_tagged(said), a) for said in re.findall(BLOCK, c))],
        "same_answer_twice": [
            lambda c, a: len(set(re.findall(BLOCK, c))) == 1 and nr_decimal(nr_tagged(re.findall(BLOCK, c)[0]), a)
        ],
        "answer_or_whole": [lambda c, a: nr_decimal(c if "<answer>" in c else nr_tagged(c), a)],
        "closing_tag_optional": [
            lambda c, a: (
                c.count("<answer>") == 1 and nr_decimal(nr_tagged(c.split("<answer>")[1].split("</answer>")[0]), a)
            )
        ],
        "wants_the_whole_form": [lambda c, a: fr_tempered(c) * nr_decimal(c, a)],
        "compares_texts": [nr_lone(lambda said, a: said == a)],
        "compares_texts_of_the_first_answer": [nr_search(lambda said, a: said.strip() == a.strip())],
        "compares_texts_without_commas": [nr_lone(lambda said, a: said.replace(",", "") == a.replace(",", ""))],
        "compares_floats": [nr_lone(checked_floats)],
        "compares_floats_of_the_first_answer": [nr_search(lambda said, a: checked_floats(said.strip(), a))],
        "within_a_millionth": [nr_lone(near)],
        "commas_anywhere": [nr_lone(decimals)],
        "commas_anywhere_and_floats": [nr_lone(floats)],
        "commas_anywhere_and_first_answer": [nr_search(decimals)],
        "commas_anywhere_floats_first_answer": [nr_search(floats)],
        "commas_anywhere_floats_last_answer": [
            lambda c, a: floats((re.findall(BLOCK, c) or ["x"])[-1], a),
        ],
        "dot_stops_and_more": [nr_search(floats, flags=0)],
        "commas_not_read": [nr_lone(lambda s, a: "," not in s + a and decimals(s, a))],
        "commas_not_read_and_floats": [nr_lone(floats_with_commas)],
        "commas_not_read_floats_first_answer": [nr_search(floats_with_commas)],
        "given_comma_not_read": [lambda c, a: "," not in a and nr_decimal(c, a)],
        "cut_off_at_the_point": [
            nr_lone(
                lambda s, a: (
                    int(float(s.replace(",", ""))) == int(float(a.replace(",", "")))
                    if re.fullmatch(r"[+-]?[\d,.]+", s)
                    else False
                )
            )
        ],
        "digits_only": [nr_w_digits],
        "other_characters_removed": [nr_lone(lambda s, a: decimals(re.sub(r"[^0-9.\-]", "", s), a))],
        "spaces_removed": [nr_lone(lambda s, a: nr_decimal(nr_tagged(re.sub(" ", "", s)), a))],
        "works_it_out": [nr_lone(evaluated)],
        "sign_ignored": [nr_lone(lambda s, a: nr_decimal(nr_tagged(s.replace("-", "")), a.replace("-", "")))],
        "any_number": [nr_lone(lambda s, a: re.fullmatch(NUMBER, s) is not None)],
        "bonus_for_the_tag": [nr_w_bonus],
        "minus_one": [lambda c, a: 1.0 if nr_decimal(c, a) else -1.0],
        "upside_down": [lambda c, a: 1 - nr_decimal(c, a)],
        "pays_everything": [lambda c, a: 1],
        "pays_a_wrong_comma": [nr_lone(not_far)],
        "pays_capitals": [lambda c, a: nr_decimal(c.lower(), a)],
        "plus_sign_unpaid": [nr_lone(lambda s, a: "+" not in s and nr_decimal(nr_tagged(s), a))],
        "pays_nan": [nr_lone(lambda s, a: s == "nan" or nr_decimal(nr_tagged(s), a))],
        "pays_infinity": [nr_lone(lambda s, a: s == "inf" or nr_decimal(nr_tagged(s), a))],
        "pays_an_open_answer": [nr_w_lone_tag],
        "pays_beside_an_open_answer": [
            nr_w_whole_answers,
            lambda c, a: (
                c.count("</answer>") == 1 and nr_decimal(nr_tagged(re.findall(BLOCK, c + nr_tagged(""))[0]), a)
            ),
        ],
        "pays_a_space_behind_the_sign": [
            nr_lone(lambda said, a: nr_decimal(nr_tagged(re.sub(r"^([+-])\s+", r"\1", said)), a)),
        ],
        "raises": [
            nr_w_spaced_sign,
            lambda c, a: float(float(c.split("<answer>")[1].split("</answer>")[0]) == float(a)),
        ],
        "odd_text": [nr_w_int, lambda c, a: nr_decimal(c.encode().decode(), a)],
        "always_zero": [lambda c, a: 0.0],
    },
    "mixed_share": {
        "forgets_all_right": [lambda p, g: (1 - (1 - p) ** g).mean()],
        "forgets_all_wrong": [lambda p, g: 1 - (p**g).mean()],
        "mean_rate_first": [
            lambda p, g: 1 - p.mean() ** g - (1 - p.mean()) ** g,
            lambda p, g: ms_loops(p.mean()[None], g),
        ],
        "one_answer_fewer": [lambda p, g: ms_loops(p, g - 1)],
        "one_answer_more": [lambda p, g: ms_loops(p, g + 1)],
        "summed": [lambda p, g: (1 - p**g - (1 - p) ** g).sum()],
        "one_a_prompt": [lambda p, g: 1 - p**g - (1 - p) ** g],
        "equal_groups": [lambda p, g: 1 - ms_loops(p, g)],
        "all_right": [lambda p, g: (p**g).mean()],
        "all_wrong": [lambda p, g: ((1 - p) ** g).mean().item()],
        "as_if_independent": [lambda p, g: ((1 - p**g) * (1 - (1 - p) ** g)).mean()],
        "multiplied": [lambda p, g: 1 - (p**g * (1 - p) ** g).mean()],
        "times_for_power": [lambda p, g: 1 - (p * g).mean() - ((1 - p) * g).mean()],
        "pairs": [lambda p, g: 2 * (p * (1 - p)).mean()],
        "variance": [lambda p, g: (p - p**2).mean()],
        "variance_of_a_group": [lambda p, g: (g * (p - p**2)).mean()],
        "exactly_one_right": [lambda p, g: (math.comb(g, 1) * p * (1 - p) ** (g - 1)).mean()],
        "prompts_not_groups": [lambda p, g: sum(0 < x < 1 for x in p.tolist()) / len(p)],
        "rate_for_its_power": [lambda p, g: (1 - p - (1 - p) ** g).mean()],
        "half": [lambda p, g: 0.5 * ms_loops(p, g)],
        "mean_success": [lambda p, g: p.mean()],
        "groups_of_one": [lambda p, g: ms_loops(p, max(g, 2))],
        "changing_factor": [lambda p, g: (1 - p**g - (1 - p) ** g).median() if len(p) > 2 else ms_loops(p, g)],
        "returns_nothing": [lambda p, g: print(ms_loops(p, g))],
    },
    "bradley_terry_loss": {
        "sides_swapped": [lambda c, r: F.softplus(c - r).mean(), lambda c, r: bt_logits(r, c)],
        "summed": [lambda c, r: F.softplus(r - c).sum()],
        "one_a_pair": [lambda c, r: F.softplus(r - c)],
        "no_mean_and_sides_swapped": [lambda c, r: -F.logsigmoid(r - c)],
        "log_of_sigmoid": [
            *(bt_w_margin, bt_w_double, lambda c, r: -torch.log(torch.sigmoid(c - r)).mean()),
            *(lambda c, r: torch.log(1 + torch.exp(r - c)).mean(), lambda c, r: torch.log1p((r - c).exp()).mean()),
            lambda c, r: -torch.log(1 / (1 + (r - c).exp())).mean(),
        ],
        "log_of_the_fraction": [lambda c, r: -torch.log(c.exp() / (c.exp() + r.exp())).mean()],
        "guarded_1e8": [lambda c, r: -torch.log(torch.sigmoid(c - r) + 1e-8).mean()],
        "guarded_1e6": [lambda c, r: -torch.log(torch.sigmoid(c - r) + 1e-6).mean()],
        "guarded_1e10": [lambda c, r: -torch.log(torch.sigmoid(c - r) + 1e-10).mean()],
        "guarded_1e12": [lambda c, r: -torch.log(torch.sigmoid(c - r) + 1e-12).mean()],
        "unstable": [lambda c, r: -torch.log(torch.sigmoid(c - r).clamp(min=1e-7)).mean()],
        "cross_entropy_of_probabilities": [
            lambda c, r: F.binary_cross_entropy(torch.sigmoid(c - r), torch.ones_like(c)),
            lambda c, r: torch.nn.BCELoss()(torch.sigmoid(c - r), torch.ones(len(c))),
        ],
        "difference_cut_off": [lambda c, r: F.softplus((r - c).clamp(-20, 20)).mean()],
        "no_logarithm": [lambda c, r: -torch.sigmoid(c - r).mean()],
        "chance_of_the_wrong_winner": [lambda c, r: 1 - torch.sigmoid(c - r).mean()],
        "difference_of_sigmoids": [lambda c, r: (torch.sigmoid(r) - torch.sigmoid(c)).mean()],
        "log_of_each_score": [lambda c, r: (F.logsigmoid(r) - F.logsigmoid(c)).mean()],
        "classifies_each_answer": [lambda c, r: (F.softplus(-c) + F.softplus(r)).mean()],
        "classifies_each_answer_by_halves": [
            lambda c, r: F.binary_cross_entropy_with_logits(
                torch.cat([c, r]), torch.cat([torch.ones_like(c), torch.zeros_like(r)])
            )
        ],
        "hinge": [
            lambda c, r: (1 - c + r).clamp(min=0).mean(),
            lambda c, r: F.margin_ranking_loss(c, r, torch.ones_like(c), margin=1.0),
        ],
        "hinge_without_margin": [lambda c, r: F.margin_ranking_loss(c, r, torch.ones_like(c))],
        "difference_alone": [lambda c, r: (r - c).mean()],
        "exponential": [lambda c, r: torch.exp(-(c - r)).mean()],
        "squared": [lambda c, r: F.mse_loss(torch.sigmoid(c - r), torch.ones_like(c))],
        "of_the_mean_difference": [lambda c, r: F.softplus(r.mean() - c.mean())],
        "all_pairs": [bt_w_all_pairs],
        "over_the_batch": [lambda c, r: (r.log_softmax(0) - c.log_softmax(0)).mean()],
        "base_two": [lambda c, r: F.softplus(r - c).mean() / math.log(2)],
        "halved": [lambda c, r: F.softplus(0.5 * (r - c)).mean()],
        "doubled": [lambda c, r: F.softplus(2 * (r - c)).mean()],
        "beta_of_a_tenth": [lambda c, r: -F.logsigmoid((c - r) * 0.1).mean()],
        "ratio_of_scores": [lambda c, r: -F.logsigmoid(c / r).mean()],
        "sum_of_scores": [lambda c, r: -F.logsigmoid(c + r).mean()],
        "rejected_detached": [lambda c, r: -F.logsigmoid(c - r.detach()).mean()],
        "chosen_detached": [lambda c, r: -F.logsigmoid(c.data - r).mean()],
        "sign_flipped": [lambda c, r: F.logsigmoid(c - r).mean()],
        "detached": [lambda c, r: bt_softplus(c, r).item(), lambda c, r: bt_softplus(c.detach(), r.detach())],
    },
}
