"""Answers to chapter 08's exercises as learners write them: right ones in many styles, wrong ones by diagnosis."""

import re
from decimal import Decimal

import torch

from grpo_teach.large import model_config
from grpo_teach.memory import Setup, Shape, predict

# settings_that_fit -----------------------------------------------------------------------------------------------
SHAPE = Shape.of(model_config("llama-3.2-1b"))
CHEAP = {"algorithm": "ppo", "method": "qlora", "critic": "head", "reference": "adapter", "dtype": "float16"}


def peak(**chosen):
    return predict(Setup(SHAPE, **chosen)).terms["total"]


def doubled(limit, group=8, **chosen):
    """The largest group, starting from 8 and doubling it."""
    while peak(**chosen, group_size=2 * group) <= limit:
        group *= 2
    return chosen | {"group_size": group}


def cheapest(limit):
    return doubled(limit, **CHEAP)


def one_by_one(limit):
    fitting = [group for group in range(8, 129, 8) if peak(**CHEAP, group_size=group) <= limit]
    return {**CHEAP, "group_size": max(fitting)}


def as_a_table(limit):
    group = 64 if limit > 12 * 2**30 else 32 if limit > 6 * 2**30 else 16
    return dict(CHEAP, group_size=group, checkpointing=True, optimizer="adamw8bit", rows_a_pass=2)


def lora_beside_whole_weights(limit):
    return doubled(limit, **CHEAP | {"method": "lora"})


def critic_of_its_own(limit):
    return doubled(limit, **CHEAP | {"critic": "separate"})


def float32_for_safety(limit):
    return doubled(limit, **CHEAP | {"dtype": "float32"})


def longer_answers(limit):
    return doubled(limit, **CHEAP | {"max_new_tokens": 768, "prompts": 5})


def changed(**changes):
    return lambda limit: cheapest(limit) | changes


def stays(**changes):
    """The same settings for every card."""
    return lambda limit: CHEAP | changes


# strict_reward ---------------------------------------------------------------------------------------------------
TAGS = ["<think>", "</think>", "<answer>", "</answer>"]
LAYOUT = re.compile(r"\s*<think>(.*)</think>\s*<answer>(.*)</answer>\s*", re.DOTALL)
PLAIN = r"-?[\d,]+(\.\d+)?"


def number(text):
    """The value of a text that is one number, else None."""
    text = text.strip()
    return float(text.replace(",", "")) if re.fullmatch(PLAIN, text) else None


def sr_regex(completion, answer):
    if any(completion.count(tag) != 1 for tag in TAGS):
        return 0.0
    found = LAYOUT.fullmatch(completion)
    return float(found is not None and number(found[2]) == float(answer))


def sr_no_tags_inside(completion, answer):
    free = r"((?:(?!</?think>|</?answer>).)*)"
    found = re.fullmatch(rf"\s*<think>{free}</think>\s*<answer>{free}</answer>\s*", completion, flags=re.S)
    return bool(found) and number(found.group(2)) == float(answer)


def sr_by_hand(completion, answer):
    text = completion.strip()
    if [text.count(tag) for tag in TAGS] != [1, 1, 1, 1]:
        return 0
    if not (text.startswith("<think>") and text.endswith("</answer>")):
        return 0
    thoughts, _, rest = text.partition("</think>")
    rest = rest.strip()
    if "<answer>" in thoughts or not rest.startswith("<answer>"):
        return 0
    said = rest[len("<answer>") : -len("</answer>")]
    try:
        return int(Decimal(said.strip().replace(",", "")) == Decimal(answer))
    except ArithmeticError:
        return 0


def sr_split(completion, answer):
    pieces = re.split(r"(</?think>|</?answer>)", completion)
    if pieces[1::2] != TAGS:
        return torch.tensor(0.0)
    before, _, between, said, after = pieces[::2]
    return torch.tensor(not (before + between + after).strip() and number(said) == float(answer)).float()


def sr_w_first_number(completion, answer):
    found = LAYOUT.fullmatch(completion) if all(completion.count(tag) == 1 for tag in TAGS) else None
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", found[2]) if found else []
    return float(bool(numbers) and number(numbers[0]) == float(answer))


def sr_w_text(completion, answer):
    found = LAYOUT.fullmatch(completion) if all(completion.count(tag) == 1 for tag in TAGS) else None
    return 1.0 if found and found[2].strip() == answer else 0.0


def sr_w_bonus(completion, answer):
    found = LAYOUT.fullmatch(completion) if all(completion.count(tag) == 1 for tag in TAGS) else None
    return 0.5 * (found is not None) + 0.5 * sr_regex(completion, answer)


def sr_w_second_try(completion, answer):
    found = LAYOUT.fullmatch(completion)
    return float(bool(found) and number(found[2]) == float(answer))


def sr_w_no_dotall(completion, answer):
    found = re.fullmatch(r"\s*<think>.*</think>\s*<answer>(.*)</answer>\s*", completion)
    return float(bool(found) and number(found[1]) == float(answer))


def sr_w_search(completion, answer):
    found = LAYOUT.search(completion)
    return float(bool(found) and number(found[2]) == float(answer))


def sr_w_answer_only(completion, answer):
    found = re.search(r"<answer>(.*?)</answer>", completion, re.DOTALL)
    return float(bool(found) and number(found[1]) == float(answer))


def sr_w_findall(completion, answer):
    found = re.findall(r"<answer>(.*?)</answer>", completion, re.DOTALL)
    return 1.0 if found and number(found[-1]) == float(answer) else 0.0


def sr_w_raises(completion, answer):
    return float(float(completion.split("<answer>")[1].split("</answer>")[0]) == float(answer))


RIGHT = {
    "settings_that_fit": [
        *(cheapest, one_by_one, as_a_table, lora_beside_whole_weights, critic_of_its_own),
        *(float32_for_safety, longer_answers),
    ],
    "strict_reward": [sr_regex, sr_no_tags_inside, sr_by_hand, sr_split],
}
WRONG = {
    "settings_that_fit": {
        "does_not_fit": [
            *(stays(group_size=64), stays(checkpointing=False), stays(group_size=256)),
            lambda limit: CHEAP | {"method": "full", "dtype": "float32", "reference": "copy"},
            lambda limit: doubled(limit, **CHEAP | {"method": "lora", "dtype": "float32"}),
        ],
        "room_left": [stays(), stays(group_size=16), stays(critic="separate"), lambda limit: cheapest(limit // 2)],
        "no_bfloat16": [
            lambda limit: {name: value for name, value in cheapest(limit).items() if name != "dtype"},
            changed(dtype="bfloat16"),
        ],
        "float16_weights": [changed(method="full", reference="copy")],
        "no_critic": [changed(critic="none"), lambda limit: {"algorithm": "ppo", "dtype": "float16"}],
        "not_ppo": [changed(algorithm="grpo", critic="none"), lambda limit: {}],
        "no_reference": [changed(reference="none")],
        "group_size_too_small": [changed(group_size=4), changed(group_size=2, critic="separate")],
        "prompts_too_small": [changed(prompts=1)],
        "prompt_tokens_too_small": [changed(prompt_tokens=128)],
        "max_new_tokens_too_small": [changed(max_new_tokens=256)],
        "unknown_setting": [changed(learning_rate=1e-5), changed(model="llama-3.2-1b"), changed(G=8)],
        "impossible": [changed(method="full"), changed(dtype="int8"), changed(group_size=8.0), changed(prompts="4")],
        "wrong_type": [lambda limit: 8, lambda limit: Setup(SHAPE), lambda limit: list(CHEAP)],
    },
    "strict_reward": {
        "searches_whole_text": [lambda text, answer: float(answer in text)],
        "searches_the_answer": [lambda text, a: a in m[2] if (m := LAYOUT.fullmatch(text)) else 0.0],
        "answer_tag_only": [sr_w_answer_only],
        "last_answer_tag_only": [sr_w_findall],
        "second_try": [sr_w_second_try],
        "dot_stops_and_second_try": [sr_w_no_dotall],
        "text_around": [sr_w_search],
        "compares_texts": [sr_w_text],
        "numbers_found_in_the_answer": [sr_w_first_number],
        "bonus_for_format": [sr_w_bonus],
        "minus_one_for_wrong": [lambda text, answer: 1.0 if sr_regex(text, answer) else -1.0],
        "format_alone": [lambda t, a: LAYOUT.fullmatch(t) is not None and all(t.count(tag) == 1 for tag in TAGS)],
        "wrong_value": [lambda text, answer: sr_regex(text.lower(), answer)],  # pays for tags in capitals
        "raises": [sr_w_raises],
        "always_zero": [lambda text, answer: 0.0],
    },
}
