"""The picture of the loop: which boxes are marked, what is said of it, and that it stands alone."""

import itertools
from xml.etree import ElementTree

import pytest

from grpo_teach.errors import InputError
from grpo_teach.figures.loop import BOXES, loop_picture

CHOICES = [(), ("reward",), ("advantage", "token loss"), ("critic", "advantage", "token loss"), tuple(BOXES)]


def parsed(*lit, **named):
    return ElementTree.fromstring(loop_picture(*lit, **named).data)  # raises where it is not well formed


def boxes(page) -> dict:
    return {group.get("data-box"): group for group in page.iter("g")}


def test_the_boxes_are_the_parts_of_the_loop():
    parts = "prompts, sampler, G answers, reward, advantage, token loss, step, reference, critic"
    assert list(boxes(parsed())) == list(BOXES) == parts.split(", ")


@pytest.mark.parametrize("lit", CHOICES)
def test_the_named_boxes_and_no_others_are_marked_by_fill_frame_and_letters(lit):
    for name, group in boxes(parsed(*lit)).items():
        frame, letters = group.find("rect"), group.find("text")
        assert letters.text == name
        assert group.get("data-lit") == ("yes" if name in lit else "no")
        assert (float(frame.get("fill-opacity")) == 1) == (name in lit)
        assert (float(frame.get("stroke-width")) >= 3) == (name in lit)
        assert (letters.get("font-weight") == "bold") == (name in lit)


@pytest.mark.parametrize("lit", CHOICES)
def test_who_cannot_see_it_is_told_the_same(lit):
    picture = parsed(*lit).find("svg")
    spoken = picture.get("aria-label")
    assert picture.get("role") == "img"
    assert all(name.lower() in spoken.lower() for name in BOXES)
    _, marked, named = spoken.partition(" Marked here: ")
    assert named.rstrip(".").split(", ") == list(lit) if lit else not marked


def test_every_arrow_runs_between_the_boxes_it_joins_and_through_none():
    page = parsed()
    frames = {}
    for name, group in boxes(page).items():
        x, y, width, height = (float(group.find("rect").get(key)) for key in ("x", "y", "width", "height"))
        frames[name] = (x, x + width, y, y + height)
    joined = []
    for line in page.iter("line"):
        x1, y1, x2, y2 = (float(line.get(key)) for key in ("x1", "y1", "x2", "y2"))
        assert x1 == x2 or y1 == y2
        for left, right, top, bottom in frames.values():
            assert max(x1, x2) < left or min(x1, x2) > right or max(y1, y2) < top or min(y1, y2) > bottom
        near = [
            min(frames, key=lambda name: abs(sum(frames[name][:2]) / 2 - x) + abs(sum(frames[name][2:]) / 2 - y))
            for x, y in ((x1, y1), (x2, y2))
        ]
        joined.append(tuple(near))
    way = ["prompts", "sampler", "G answers", "reward", "advantage", "token loss", "step", "sampler"]
    assert set(joined) == {*itertools.pairwise(way), ("reference", "token loss"), ("critic", "advantage")}


def test_nothing_overlaps_or_leaves_the_picture():
    page = parsed()
    _, _, width, height = map(float, page.find("svg").get("viewBox").split())
    assert width <= 390  # on a telephone its letters keep their size
    frames = [[float(group.find("rect").get(key)) for key in ("x", "y", "width", "height")] for group in page.iter("g")]
    for x, y, w, h in frames:
        assert x > 0 and y > 0 and x + w < width and y + h < height
    for (x, y, w, h), (x2, y2, w2, h2) in itertools.combinations(frames, 2):
        assert x + w < x2 or x2 + w2 < x or y + h < y2 or y2 + h2 < y


def test_it_asks_no_server_runs_no_script_and_is_small():
    text = loop_picture(*BOXES).data
    assert not any(word in text for word in ("http", "//", "<script", "@import", "href"))
    assert len(text) < 8_000


def test_two_pictures_on_a_page_share_no_name():
    names = [{node.get("id") for node in parsed(name=name).iter() if node.get("id")} for name in ("loop", "loop-again")]
    assert not names[0] & names[1]
    text = loop_picture(name="loop-again").data
    assert text.count("url(#") == text.count("url(#loop-again-tip)") == 9


def test_an_unknown_box_is_named_with_those_there_are():
    with pytest.raises(InputError, match="'rewards'.*prompts, sampler.*critic") as error:
        loop_picture("reward", "rewards")
    assert "\n" not in str(error.value)
