"""Answers to chapter 11's vote as learners write them: right ones in many styles, wrong ones by diagnosis."""

import math
import statistics
from collections import Counter, defaultdict
from itertools import groupby

import numpy as np


def mv_max(answers):
    given = [answer for answer in answers if answer != ""]
    return max(given, key=given.count, default="")


def mv_counter(answers):
    """Counter keeps the order in which answers came, also where it sorts by counts."""
    return next((answer for answer, _ in Counter(answers).most_common() if answer), "")


def mv_mode(answers):
    try:
        return statistics.mode(filter(None, answers))
    except statistics.StatisticsError:
        return ""


def mv_multimode(answers):
    return (statistics.multimode([a for a in answers if a]) + [""])[0]


def mv_dictionary(answers):
    counts = {}
    for answer in answers:
        if not answer:
            continue
        counts[answer] = counts.get(answer, 0) + 1
    best, most = "", 0
    for answer, count in counts.items():
        if count > most:
            best, most = answer, count
    return best


def mv_sorted(answers):
    ranked = sorted(set(answers) - {""}, key=lambda answer: (-answers.count(answer), answers.index(answer)))
    return "".join(ranked[:1])


def mv_numpy(answers):
    answers = np.array(answers, dtype=str)
    answers = answers[answers != ""]
    if len(answers) == 0:
        return ""
    values, first, counts = np.unique(answers, return_index=True, return_counts=True)
    return values[first == first[counts == counts.max()].min()][0]


def mv_loops(answers):
    for wanted in range(len(answers), 0, -1):
        for answer in answers:
            if len(answer) and sum(other == answer for other in answers) == wanted:
                return answer
    return ""


def mv_places(answers):
    places = defaultdict(list)
    for i, answer in enumerate(answers):
        places[answer].append(i)
    places.pop("", None)
    return min(places, key=lambda answer: (-len(places[answer]), places[answer][0]), default="")


def mv_stable(answers):
    answers = sorted(filter(None, answers), key=answers.count, reverse=True)
    return answers.pop(0) if answers else ""


def mv_deleted(answers):
    votes = Counter(answers)
    del votes[""]
    return max(votes, key=votes.get) if votes else ""


def mv_empty_first(answers):
    """As if an empty answer were said less than once."""
    return max([""] + answers, key=lambda answer: bool(answer) * answers.count(answer))


# As they come to mind first: an empty answer is one like the others.


def mv_w_max(answers):
    return max(answers, key=answers.count, default="")


def mv_w_counter(answers):
    return Counter(answers).most_common(1)[0][0] if answers else ""


def mv_w_given(function):
    return lambda answers: function([answer for answer in answers if answer])


def mv_of(choose):
    """One of the most frequent answers, each once, in the order of saying."""

    def vote(answers):
        if not answers:
            return ""
        top = max(Counter(answers).values())
        return choose([answer for answer in dict.fromkeys(answers) if answers.count(answer) == top])

    return vote


def mv_number(answer):
    return float(answer) if answer.replace(".", "").strip().isdigit() else math.inf


def mv_w_stream(answers):
    counts, best = Counter(), ""
    for answer in answers:
        counts[answer] += 1
        if counts[answer] > counts[best]:
            best = answer
    return best


def mv_w_stream_equal(answers):
    counts, best = {"": 0}, ""
    for answer in answers:
        counts[answer] = counts.get(answer, 0) + 1
        best = answer if counts[answer] >= counts[best] else best
    return best


def mv_w_cancel(answers):
    candidate, count = "", 0
    for answer in answers:
        if count == 0:
            candidate = answer
        count += 1 if answer == candidate else -1
    return candidate


def mv_w_runs(answers):
    runs = [list(run) for _, run in groupby(answers)]
    return max(runs, key=len)[0] if runs else ""


def mv_w_unique(answers):
    values, counts = np.unique(answers, return_counts=True)
    return str(values[counts.argmax()]) if len(answers) else ""


def mv_of_rarest(answers):
    return min(answers, key=answers.count, default="")


def mv_w_share(least):
    def vote(answers):
        best = mv_max(answers)
        return best if least(answers.count(best), len(answers) / 2) else ""

    return vote


def mv_w_numbers(answers):
    values = [mv_number(answer) if mv_number(answer) < math.inf else answer for answer in answers]
    return answers[values.index(Counter(values).most_common(1)[0][0])] if answers else ""


RIGHT = {
    "majority_vote": [
        *(mv_max, mv_counter, mv_mode, mv_multimode, mv_dictionary, mv_sorted, mv_numpy, mv_loops, mv_places),
        *(mv_stable, mv_deleted, mv_empty_first, mv_w_given(mv_of(lambda tops: tops[0]))),
    ],
}
WRONG = {
    "majority_vote": {
        "counts_empty_answers": [
            *(mv_w_max, mv_w_counter, lambda answers: statistics.mode(answers) if len(answers) else ""),
            lambda answers: mv_w_counter(answers) or "",
        ],
        "order_of_a_set": [
            lambda answers: max({a for a in answers if a}, key=answers.count, default=""),
            lambda answers: max({a for a in answers if a}, key=lambda a: sum(a == b for b in answers), default=""),
            mv_w_given(
                lambda given: Counter({a: given.count(a) for a in set(given)}).most_common(1)[0][0] if given else ""
            ),
        ],
        "order_of_a_set_with_empty_answers": [
            lambda answers: max(set(answers), key=answers.count) if answers else "",
            lambda answers: max(set(answers), key=lambda a: sum(a == b for b in answers)) if len(answers) else "",
        ],
        "order_of_a_set_last": [mv_w_given(lambda given: "".join(sorted(set(given), key=given.count)[-1:]))],
        "last_of_equals": [mv_w_given(mv_of(lambda tops: tops[-1]))],
        "last_of_equals_with_empty_answers": [mv_of(lambda tops: tops[-1])],
        "last_said_of_equals": [
            *(mv_w_given(mv_w_stream_equal), mv_w_given(lambda given: "".join(sorted(given, key=given.count)[-1:]))),
        ],
        "last_said_of_equals_with_empty_answers": [
            *(mv_w_stream_equal, lambda answers: "".join(sorted(answers, key=answers.count)[-1:])),
        ],
        "first_to_get_there": [mv_w_given(mv_w_stream)],
        "first_to_get_there_with_empty_answers": [mv_w_stream],
        "first_in_the_alphabet": [
            *(mv_w_given(mv_w_unique), mv_w_given(lambda given: max(sorted(given), key=given.count, default=""))),
        ],
        "first_in_the_alphabet_with_empty_answers": [
            *(mv_w_unique, lambda answers: max(sorted(answers), key=answers.count, default="")),
        ],
        "last_in_the_alphabet": [mv_w_given(mv_of(max))],
        "last_in_the_alphabet_with_empty_answers": [mv_of(max)],
        "smallest_of_equals": [mv_w_given(mv_of(lambda tops: sorted(tops, key=mv_number)[0]))],
        "largest_of_equals": [mv_w_given(mv_of(lambda tops: max(tops, key=mv_number)))],
        "first_answer": [lambda answers: "".join(answers[:1])],
        "last_answer": [lambda answers: "".join(answers[-1:])],
        "rarest": [
            *(lambda answers: "".join(sorted(answers, key=answers.count)[:1]), mv_w_given(mv_of_rarest)),
        ],
        "count": [lambda answers: Counter(answers).most_common(1)[0][1] if answers else 0],
        "share_of_votes": [lambda a: a.count(mv_w_max(a)) / len(a) if a else 0.0],
        "more_than_half": [mv_w_share(lambda n, half: n > half)],
        "at_least_half": [mv_w_share(lambda n, half: n >= half)],
        "only_a_clear_winner": [
            *(mv_of(lambda tops: tops[0] if tops[1:] == [] else ""), mv_w_given(mv_of(lambda t: t[0] * (len(t) < 2)))),
        ],
        "boyer_moore": [mv_w_cancel],
        "longest_run": [mv_w_runs, mv_w_given(mv_w_runs)],
        "in_the_middle": [lambda answers: statistics.median_high(answers) if answers else ""],
        "last_in_order": [lambda answers: max(answers, default="")],
        "longest": [lambda answers: max(answers, key=len) if answers else ""],
        "stripped": [lambda answers: mv_max([a.strip() for a in answers])],
        "lowered": [lambda answers: mv_counter([a.lower() for a in answers])],
        "stripped_and_lowered": [lambda answers: mv_mode([a.lower().strip() for a in answers])],
        "by_number": [mv_w_given(mv_w_numbers)],
        "no_answers": [lambda answers: mv_max(answers) or ("none" if not answers else "")],
        "only_empty_answers": [lambda answers: mv_max(answers) or ("none" if answers else "")],
        "empty_answers": [lambda answers: mv_w_max([a.strip() for a in answers])],
        "capital_letters": [
            lambda answers: mv_max([a.rstrip() for a in answers]) if "X " in answers else mv_max(answers)
        ],
        "raises": [
            *(lambda answers: max(set(answers), key=answers.count), lambda answers: statistics.mode(answers)),
            *(lambda answers: Counter(answers).most_common(1)[0][0], lambda a: max(filter(None, a), key=a.count)),
            lambda answers: Counter(filter(None, answers)).most_common(1)[0][0] if answers else "",
        ],
        "returns_nothing": [lambda answers: mv_max(answers) if answers else None, lambda a: print(mv_max(a))],
        "wrong_type": [
            *(lambda answers: Counter(answers).most_common(1)[0] if answers else "", len),
            lambda answers: [mv_max(answers)],
        ],
        "wrong_value": [lambda answers: mv_max(answers).join("()") if answers else ""],
    },
}
