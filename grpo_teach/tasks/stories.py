"""Stories of two steps, made up on the spot: easy enough for a model of a hundred million parameters.

``Mia has 7 apples. She buys 5 more. Then she gives away 4. How many apples does Mia have now?`` asks for ``8``, and is
worked out as ``7+5=12, 12-4=8``.
"""

from __future__ import annotations

import random

__all__ = ["SIZES", "stories"]

SIZES = {"train": (0, 8000), "test": (1, 1000)}  # by split: the seed, and how many rows
MOST = 10  # of what a story begins with, and of what comes or goes in a step
NAMES = [("Mia", "She"), ("Noah", "He"), ("Aisha", "She"), ("Omar", "He"), ("Lin", "She"), ("Diego", "He")]
NAMES += [("Zoe", "She"), ("Kofi", "He"), ("Nina", "She"), ("Ravi", "He"), ("Eva", "She"), ("Juan", "He")]
THINGS = ["apples", "books", "coins", "stamps", "shells", "pencils", "marbles", "cards", "stones", "buttons"]
COMES = ["buys {} more", "finds {} more", "gets {} more from a friend", "wins {} more"]
GOES = ["gives away {}", "loses {}", "sells {}", "gives {} to a friend"]


def stories(split: str) -> list[dict]:
    """The rows of one split, each with ``question`` and ``answer`` as GSM8K has them; the same ones every time."""
    seed, size = SIZES[split]
    draw = random.Random(seed)
    return [_story(draw) for _ in range(size)]


def _story(draw: random.Random) -> dict:
    (name, pronoun), thing, held = draw.choice(NAMES), draw.choice(THINGS), draw.randint(2, MOST)
    told, worked = [f"{name} has {held} {thing}."], []
    for opening in (pronoun, f"Then {pronoun.lower()}"):
        comes = held < 3 or draw.random() < 0.5
        moved = draw.randint(2, MOST if comes else min(MOST, held - 1))  # one is left, so that 0 is no good guess
        told.append(f"{opening} {draw.choice(COMES if comes else GOES).format(moved)}.")
        after = held + moved if comes else held - moved
        worked.append(f"{held}{'+' if comes else '-'}{moved}={after}")
        held = after
    question = " ".join([*told, f"How many {thing} does {name} have now?"])
    return {"question": question, "answer": f"{', '.join(worked)}\n#### {held}"}
