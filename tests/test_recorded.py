"""The page of recorded results: every record stands there, with its own numbers and a command that exists."""

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="the book's tools are not installed")

import recorded

from grpo_teach.__main__ import parser
from grpo_teach.studies.run import studies

ROOT = Path(__file__).parents[1]

ROWS = {row["name"]: row for row in recorded.table()}


def test_every_record_stands_there_with_a_question_and_a_command():
    files = [*(ROOT / "grpo_teach/recorded").glob("*.json"), *(ROOT / "benchmarks").glob("*.json")]
    assert {path.stem for path in files} == ROWS.keys()
    assert [name for name, row in ROWS.items() if not (row["question"] and row["command"])] == []
    assert recorded.others().keys() <= ROWS.keys() - studies().keys()  # none describes what is no record, or a study


@pytest.mark.parametrize("name", ROWS)
def test_a_command_can_be_given(name):
    python, *words = ROWS[name]["command"].split()
    assert python == "python"
    if words[0].startswith("benchmarks/"):
        script = (ROOT / words[0]).read_text(encoding="utf-8")
        assert set(re.findall(r"--[a-z-]+", " ".join(words))) <= set(re.findall(r"--[a-z-]+", script))
    else:
        assert words[:2] == ["-m", "grpo_teach"]
        parser().parse_args(words[2:])  # ends with exit code 2 if it is no such command


@pytest.mark.parametrize(("name", "workers"), [("climb", 1), ("beta", 2), ("r1_zero", 2), ("clinic", 1)])
def test_the_time_is_the_sum_of_the_runs_seconds_over_those_that_ran_at_a_time(name, workers):
    runs = json.loads((ROOT / f"grpo_teach/recorded/{name}.json").read_text(encoding="utf-8"))["runs"]
    seconds = [run["seconds"] for label in runs for run in runs[label]]
    assert ROWS[name]["runs"] == len(seconds)
    assert ROWS[name]["seconds"] == pytest.approx(sum(seconds) / workers)


def test_a_process_that_was_killed_counts_too():
    assert recorded.seconds_of({"seconds": 1.0, "processes": {"a": {"seconds": 2.0}, "b": {"seconds": 3.5}}}) == 5.5


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99.4, "99 s"), (100, "2 min"), (5900, "98 min"), (6000, "1 h 40 min"), (7260, "2 h 01 min")],
)
def test_a_time_can_be_read(seconds, text):
    assert recorded.duration(seconds) == text


def test_a_record_is_shown_where_a_cell_reads_it_and_not_where_its_name_means_something_else():
    assert recorded.read_in('found = ends("beta", "entropy")', "beta")
    assert recorded.read_in('rows = {name: load_record(name) for name in ("beta", "scale")}', "scale")
    assert recorded.read_in('SEARCHES = ["search_addition"]', "search_addition")
    assert not recorded.read_in('draw(row["beta"], load_record("climb"))', "beta")
    assert not recorded.read_in('settings = {"group_size": 8}', "group_size")


def test_places_are_sections_of_chapters():
    for name, row in ROWS.items():
        for page, anchor, chapter in row["places"]:
            cells = json.loads((ROOT / f"{page}.ipynb").read_text(encoding="utf-8"))["cells"]
            text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
            assert anchor in map(recorded.nodes.make_id, re.findall(r"^#+ (.+)$", text, re.M)), (name, chapter)
