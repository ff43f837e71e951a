"""The minutes that a chapter names at its top are those that are counted from its text."""

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="the book's tools are not installed")

import minutes

CHAPTERS = minutes.chapters()


def notebook(path: Path, *sources: str, figures: int = 0) -> Path:
    cells = [{"cell_type": "markdown", "source": [source]} for source in sources]
    cells += [{"cell_type": "code", "source": [], "outputs": [{"data": {"image/png": ""}}]}] * figures
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    return path


def test_no_chapter_is_left_out():
    assert len(CHAPTERS) == len(list((minutes.ROOT / "notebooks").glob("*.ipynb")))


def test_words_equations_and_figures_are_read_and_exercises_are_not(tmp_path):
    words = "word " * 2000
    exercise = f"### Exercise 1.1: a\n\n*Difficulty: 1 of 5. About 7 minutes.*\n\n{words}"
    path = notebook(tmp_path / "01_a.ipynb", words, exercise, "$$\nx\n$$ and $$\ny\n$$", figures=3)
    assert minutes.spent(path) == (15, 7)  # 10 of words, 2 of equations, 3 of figures


@pytest.mark.parametrize("number", CHAPTERS)
def test_a_chapter_says_how_long_it_takes(number):
    cells = json.loads(CHAPTERS[number].read_text(encoding="utf-8"))["cells"]
    (said,) = re.findall(r"^\*\*Time:\*\* (.*)$", "\n".join("".join(cell["source"]) for cell in cells), re.M)
    reading, exercises = minutes.spent(CHAPTERS[number])
    stated = int(re.match(r"about (\d+) minutes to read", said).group(1))
    assert abs(stated - reading) <= 5  # a paragraph more or less is no new figure
    if exercises:
        assert re.search(rf"and (about )?{exercises} for the ", said)
