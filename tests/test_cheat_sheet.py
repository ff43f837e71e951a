"""The cheat sheet's tables say what the package's dataclasses and the doctor say."""

import pytest

pytest.importorskip("sphinx", reason="the book's tools are not installed")

import algorithm_diff
import cheat_sheet
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

from grpo_teach import GRPO, PPO
from grpo_teach.algorithms.later.gspo import GSPO
from grpo_teach.clinic.signs import SIGNS

ROWS = {name: rest for name, *rest in cheat_sheet.defaults()}


def test_every_setting_of_every_algorithm_stands_there_once_with_its_default():
    wanted = {field.name for kind in cheat_sheet.KINDS.values() for field in cheat_sheet.settings_of(kind.Settings)}
    assert ROWS.keys() == wanted and len(cheat_sheet.defaults()) == len(wanted)
    assert ROWS["lam"][1] == str(PPO().lam)
    assert ROWS["learning_rate"][1] == str(GRPO().learning_rate)
    assert f"GSPO: {GSPO().clip_low}" in ROWS["clip_low"][1]


def test_papers_values_are_those_of_the_settings_own_text_and_each_once():
    assert ROWS["group_size"][2] == "DeepSeekMath: 64, R1: 16"
    said = ROWS["clip_high"][2].split(", ")
    assert "DAPO: 0.28" in said and "DeepSeekMath: not stated" in said and len(said) == len(set(said))
    assert ROWS["max_grad_norm"][2] == ""


def test_every_sign_of_the_doctor_has_its_likeliest_causes():
    rows = {name: causes for name, _, causes, _ in cheat_sheet.signs()}
    assert rows.keys() == SIGNS.keys()
    assert rows["negative_likelihood"] == "the loss has the wrong sign; weights below 0 among the accepted rows"


def test_a_second_build_says_what_the_package_says_now(tmp_path, monkeypatch):
    (tmp_path / "index.rst").write_text("Cards\n=====\n\n.. defaults::\n\n.. algorithm-diff:: ppo grpo\n")
    (tmp_path / "conf.py").write_text("extensions = ['cheat_sheet', 'algorithm_diff']\n")
    for said in ("before", "after"):
        monkeypatch.setattr(cheat_sheet, "defaults", lambda said=said: [("beta", f"table {said}", "0", "")])
        monkeypatch.setattr(algorithm_diff, "update_diff", lambda *_, said=said: f"+ diff {said}")
        places = tmp_path, tmp_path, tmp_path / "out", tmp_path / "trees"
        with docutils_namespace():
            Sphinx(*places, "html", status=None, warningiserror=True).build()
        page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
        assert f"table {said}" in page and f"diff {said}" in page
