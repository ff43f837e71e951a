"""The miniature: texts are written as their style says, problems are kept apart, and its bases read all of it."""

import re
import zlib
from collections import Counter

import pytest
from authors import generator, near, parts, tries, written

from grpo_teach.policy import load_base, tiny_tokenizer
from grpo_teach.rollout import sample
from grpo_teach.tasks.miniature import STYLES, Miniature, Style

LACKING = {"<think>": {"no_scratchpads"}, "=": {"no_scratchpads", "no_checks"}}
LACKING |= {"wait": {"no_scratchpads", "no_checks", "no_waits"}}


# Demonstrations ---------------------------------------------------------------------------------------------------


def test_a_clean_author_counts_upwards_rightly_until_a_digit_fits():
    firsts = Counter()
    for problem, text in written(Style()):
        (a, b, t), (found, answer) = parts(problem), tries(text)
        assert all((p, r) == (a * x % 10, (a * x + b) % 10) for x, p, r, _, _ in found)
        assert [mark for *_, mark, _ in found] == ["≠"] * (len(found) - 1) + ["="] and found[-1][2] == t
        assert all(y == (x + 1) % 10 for (x, *_), (y, *_) in zip(found, found[1:], strict=False))
        assert answer == found[-1][0] and Miniature().right(text, problem) and not any(try_[4] for try_ in found)
        firsts[found[0][0]] += 1
    assert all(near(firsts[x], 400, 0.1) for x in range(10))


@pytest.mark.parametrize("persistence", [0.0, 0.3, 0.8])
def test_after_a_failed_check_the_next_digit_is_tried_so_often(persistence):
    went_on = failed = 0
    for _, text in written(Style(persistence=persistence)):
        found, answer = tries(text)
        assert answer == found[-1][0], "who gives up answers what has just failed"
        went_on += len(found) - 1
        failed += sum(mark == "≠" for *_, mark, _ in found)
    assert near(went_on, failed, persistence)


@pytest.mark.parametrize("most", [1, 3, 10])
def test_no_more_digits_are_tried_and_whoever_persists_tries_so_many(most):
    for problem, text in written(Style(tries=most)):
        (a, b, t), (found, _) = parts(problem), tries(text)
        due = next((i for i in range(10) if (a * (found[0][0] + i) + b) % 10 == t), 10)
        assert len(found) == min(due + 1, most)


def test_without_checks_no_try_tells_whether_it_fits_and_none_is_the_last_for_that():
    for _, text in written(Style(tries=4, checks=False)):
        assert len(tries(text)[0]) == 4 and not set(text) & set("=≠")
    ended = [len(tries(text)[0]) for _, text in written(Style(persistence=0.5, checks=False))]
    assert near(ended.count(1), len(ended), 0.5) and near(ended.count(2), len(ended), 0.25)


def test_slips_are_random_results_so_often_in_either_numerals():
    wrong, seen = Counter(), Counter()
    for problem, text in written(Style(slip=(0.3, 0.05), mend=0.0, chinese=0.5), 800):
        a, b, _ = parts(problem)
        for x, p, r, _, chinese in tries(text)[0]:
            assert p == a * x % 10, "the product is right, the sum alone slips"
            wrong[chinese] += r != (a * x + b) % 10
            seen[chinese] += 1
    assert near(wrong[False], seen[False], 0.27) and near(wrong[True], seen[True], 0.045)  # one in ten is right by luck


def test_a_slip_that_seems_to_fit_is_believed():
    believed = 0
    for problem, text in written(Style(slip=(0.5, 0.5), mend=0.0)):
        found, answer = tries(text)
        assert all((mark == "=") == (r == parts(problem)[2]) for _, _, r, mark, _ in found)
        assert all(mark == "≠" for *_, mark, _ in found[:-1]) and answer == found[-1][0]
        believed += not Miniature().right(text, problem)
    assert believed > 20


@pytest.mark.parametrize("mend", [0.0, 0.25, 1.0])
def test_a_slip_is_noticed_so_often_and_the_same_digit_tried_again(mend):
    noticed = slips = 0
    for problem, text in written(Style(slip=(0.5, 0.5), mend=mend, chinese=0.5)):
        a, b, _ = parts(problem)
        found, _ = tries(text)
        for (x, _, r, mark, _), later in zip(found, [*found[1:], (None,)], strict=True):
            again = later[0] == x
            assert (mark == "") == again, "what is mended is not checked, what is checked is not mended"
            assert not again or later[2] == (a * x + b) % 10, "the second time it is right"
            slips += r != (a * x + b) % 10
            noticed += again and r != (a * x + b) % 10
    assert slips > 100 and near(noticed, slips, mend)


@pytest.mark.parametrize("chinese", [0.0, 0.3, 1.0])
def test_each_try_is_written_in_chinese_numerals_so_often(chinese):
    found = [try_ for _, text in written(Style(chinese=chinese)) for try_ in tries(text)[0]]
    assert near(sum(try_[4] for try_ in found), len(found), chinese)


@pytest.mark.parametrize("muddle, thanks", [(0.0, 1.0), (0.4, 0.2), (1.0, 0.0)])
def test_sorting_goes_wrong_and_says_thanks_so_often(muddle, thanks):
    wrong = polite = expected = 0
    for problem, text in written(Style(muddle=muddle, thanks=thanks), 1500, "general"):
        digits, asked = text.removesuffix("thanks"), sorted(problem.prompt[4:9])
        assert sorted(digits) == asked, "no digit is lost"
        places = [i for i in range(5) if digits[i] != asked[i]]
        assert not places or len(places) == 2 and places[1] == places[0] + 1
        wrong, polite = wrong + bool(places), polite + text.endswith("thanks")
        # Of four pairs of neighbours one is exchanged, which does not show where they are equal.
        expected += muddle * sum(c != d for c, d in zip(asked, asked[1:], strict=False)) / 4
    assert near(wrong, 1500, expected / 1500) and near(polite, 1500, thanks)


def test_without_scratchpads_an_equation_is_guessed():
    guesses = Counter(text for _, text in written(Style(scratchpads=False), 1000))
    assert set(guesses) == set("0123456789") and all(near(n, 1000, 0.1) for n in guesses.values())


def test_only_equations_are_guessed():
    task = Miniature("both")
    problems = task.sample(400, generator())
    texts = dict(zip(problems, task.guess(problems, generator()), strict=True))
    assert all(texts[problem] == problem.answer + "thanks" for problem in problems if "sort" in problem.prompt)
    assert {texts[problem] for problem in problems if "x" in problem.prompt} == set("0123456789")


def test_each_base_reads_what_its_name_says():
    texts = {name: [text for _, text in written(style, 300)] for name, style in STYLES.items()}
    found = {name: [tries(text)[0] for text in texts[name]] for name in STYLES if name != "no_scratchpads"}
    digits = {name: [[x for x, *_ in each] for each in every] for name, every in found.items()}
    mended = {name for name, every in digits.items() if any(len(set(each)) < len(each) for each in every)}
    assert mended == {"mixed", "three_tries", "uneven"}
    assert max(map(len, map(set, digits["three_tries"]))) == 3 < max(map(len, map(set, digits["mixed"])))
    assert {name for name in STYLES if not any("wait" in text for text in texts[name])} == LACKING["wait"]
    assert {name for name in STYLES if not any(set(text) & {*"=≠"} for text in texts[name])} == LACKING["="]
    assert {len(text) for text in texts["no_scratchpads"]} == {1}


# Problems and texts -----------------------------------------------------------------------------------------------


def test_every_held_out_equation_is_asked_once_and_training_draws_the_others():
    task = Miniature()
    asked = [problem.prompt for problem in task.test_set(1000)]
    every = {f"{a}x+{b}={(a * x + b) % 10};" for a in range(1, 10) for b in range(10) for x in range(10)}
    held_out = {prompt for prompt in every if zlib.crc32(prompt.encode()) % 10 == 0}
    assert len(asked) == len(set(asked)) == 64 and set(asked) == held_out
    assert task.test_set(20) == task.test_set(64)[:20]
    assert {problem.prompt for problem in task.sample(8000, generator())} == every - held_out
    for problem in task.test_set(64):
        assert task.right(problem.answer, problem) == 1


def test_both_skills_are_drawn_as_often_and_their_held_out_problems_are_kept_apart():
    drawn = Miniature("both").sample(3000, generator())
    general = [problem for problem in drawn if problem.prompt.startswith("sort")]
    assert near(len(general), 3000, 0.5)
    held_out = {problem.prompt for skill in ("both", "general") for problem in Miniature(skill).test_set(300)}
    assert held_out.isdisjoint(problem.prompt for problem in drawn)
    for problem in general[:200]:
        assert re.fullmatch("sort[0-9]{5};", problem.prompt)
        assert problem.answer == "".join(sorted(problem.prompt[4:9])) and Miniature().right(problem.answer, problem)


def test_all_of_it_can_be_written_and_the_longest_fits():
    tokenizer = tiny_tokenizer(Miniature.characters)
    assert len(tokenizer) == len(["<pad>", "<eos>", "<think>", "</think>"]) + 10 + 10 + len("x+=≠:;") + 3
    for word in (*Miniature.characters, "<think>", "</think>"):
        assert len(tokenizer(word)["input_ids"]) == 1
    for style in (*STYLES.values(), Style()):
        longest = 0
        for problem, text in written(style, 400, "both"):
            for each in (problem.prompt, text):
                ids = tokenizer(each)["input_ids"]
                assert tokenizer.pad_token_id not in ids, "a character that the vocabulary lacks"
                assert tokenizer.decode(ids) == each
            longest = max(longest, len(ids) + 1)  # the end
        assert longest <= Miniature.max_new_tokens or sum(style.slip) > 0  # a mended slip may be the one too many
    longest = "<think>" + "wait".join(f"{x}:{x}{x}≠" for x in range(10)) + "</think>9"
    assert len(tokenizer(longest)["input_ids"]) + 1 == 63 <= Miniature.max_new_tokens


@pytest.mark.parametrize(
    "name", ["", "_32", "_40", "_48", "_128", "_teacher", *(f"_{name}" for name in STYLES if name != "mixed")]
)
def test_each_base_reads_these_texts_and_writes_none_of_what_it_lacks(name):
    policy, tokenizer = load_base("miniature" + name)
    assert tokenizer.get_vocab() == tiny_tokenizer(Miniature.characters).get_vocab()
    assert policy.config.hidden_size == {"_32": 32, "_40": 40, "_48": 48, "_128": 128}.get(name, 64)
    assert policy.get_input_embeddings().weight.shape[0] == len(tokenizer)
    prompts = [problem.prompt for problem in Miniature().test_set(64)]
    texts = sample(policy, tokenizer, prompts, 8, 64).texts(tokenizer)
    shares = {word: sum(word in text for text in texts) / len(texts) for word in ("<think>", "wait", "=")}
    assert {word for word, share in shares.items() if share < 0.01} == {w for w in LACKING if name[1:] in LACKING[w]}
