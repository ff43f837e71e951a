"""The exercises' checkers: ``check(name, answer)`` says what is wrong, not only that something is."""

from __future__ import annotations

import os

from grpo_teach.errors import InputError
from grpo_teach.exercises import (
    chapter_01,
    chapter_02,
    chapter_03,
    chapter_04,
    chapter_05,
    chapter_06,
    chapter_07,
    chapter_08,
    chapter_09,
    chapter_10,
    chapter_11,
    chapter_12,
    chapter_13,
)
from grpo_teach.exercises.diagnose import examine
from grpo_teach.exercises.exercise import Exercise
from grpo_teach.exercises.report import Verdict, note_progress, read_progress, show, show_progress

__all__ = ["Verdict", "check", "names", "progress"]

CHAPTERS = (chapter_01, chapter_02, chapter_03, chapter_04, chapter_05, chapter_06, chapter_07, chapter_08, chapter_09)
CHAPTERS += (chapter_10, chapter_11, chapter_12, chapter_13)
EXERCISES = {exercise.name: exercise for chapter in CHAPTERS for exercise in chapter.EXERCISES}


def names() -> list[str]:
    """All exercises, in the order of the chapters."""
    return list(EXERCISES)


def check(name: str, answer) -> Verdict:
    """Try the learner's function on cases that tell the right answer from the typical wrong ones.

    Shows the verdict, in a notebook with colour, elsewhere as text, and notes solved exercises for
    :func:`progress`. Any error in the function is part of the verdict; only Ctrl-C comes through. Torch's global
    state (seeds, default dtype and device, grad mode, threads) is left as it was.
    With the environment variable ``GRPO_TEACH_STRICT=1`` a verdict other than "passed" raises.

    Args:
        name: one of :func:`names`.
        answer: the learner's function; for a prediction, one of the choices.
    Returns:
        The verdict: ``passed``, ``attempted``, ``diagnosis`` (a short stable id, or None) and ``message``.
    Raises:
        InputError: for an unknown name.
        AssertionError: if not passed, in strict mode.
    """
    if name not in EXERCISES:
        raise InputError(f"there is no exercise named {name!r}; there are: {', '.join(EXERCISES)}")
    exercise = EXERCISES[name]
    verdict = examine(exercise, answer) if isinstance(exercise, Exercise) else exercise.examine(answer)
    show(verdict)
    if verdict.passed and not verdict.from_book:
        note_progress(name)
    if os.environ.get("GRPO_TEACH_STRICT") == "1" and not verdict.passed:
        raise AssertionError(f"{name}: {verdict.message}")
    return verdict


def progress() -> dict[str, bool]:
    """Show which exercises are solved, chapter by chapter, and return it as ``{name: solved}``.

    A notebook shows a table with bars, everything else text. Kept in ``~/.grpo_teach/progress.json``, or in the file
    that ``GRPO_TEACH_PROGRESS`` names.
    """
    solved, chapters = read_progress(), {}
    for name, exercise in EXERCISES.items():
        chapters.setdefault(exercise.chapter, {})[name] = name in solved
    show_progress(dict(sorted(chapters.items())))
    return {name: name in solved for name in EXERCISES}
