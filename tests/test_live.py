"""Widgets without a browser: values are set and buttons clicked from here, and what they lead to is looked at."""

import importlib.util
import math
import threading
import time
from pathlib import Path

import pytest
import torch

from grpo_teach import exercises
from grpo_teach.algorithms import ALGORITHMS
from grpo_teach.errors import InputError
from grpo_teach.exercises import report
from grpo_teach.policy import load_base
from grpo_teach.tasks import ChainSum
from grpo_teach.train import fingerprint, train

pytest.importorskip("ipywidgets")

from grpo_teach.figures import play
from grpo_teach.figures.live import TrainingPanel, training_panel

WIDGET = "application/vnd.jupyter.widget-view+json"


def until(happened):
    for _ in range(6000):
        if happened():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen within five minutes")


@pytest.fixture
def panel():
    """A panel with small batches, as if its cell had been run."""
    made = training_panel(steps=200, prompts=2)
    made.sliders["group_size"].value = 4
    yield made
    TrainingPanel.now is None or TrainingPanel.now.stop()


def without_time(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


# Training ---------------------------------------------------------------------------------------------------------


def test_until_somebody_clicks_nothing_runs():
    threads, state = threading.active_count(), torch.get_rng_state()
    panel = training_panel()
    assert threading.active_count() == threads and panel.thread is None and panel.rows == []
    assert torch.equal(torch.get_rng_state(), state)  # later cells draw what they would have drawn
    assert fingerprint(panel.policy) == fingerprint(load_base()[0])
    assert panel.settings() == ALGORITHMS["grpo"].Settings()
    assert panel.buttons["pause"].disabled and panel.buttons["stop"].disabled and not panel.buttons["start"].disabled


def test_what_the_panel_trains_is_what_train_trains():
    chosen = {"learning_rate": 2e-3, "group_size": 6, "epochs": 2, "beta": 0.1}
    panel = training_panel(steps=3, prompts=3, seed=5)
    for name, value in {**chosen, "clip": 0.05}.items():
        panel.sliders[name].value = value
    panel.buttons["start"].click()
    panel.thread.join()
    assert panel.state == "finished" and len(panel.rows) == 3

    policy, tokenizer = load_base()
    settings = ALGORITHMS["grpo"].Settings(**chosen, clip_low=0.05, clip_high=0.05, prompts=3)
    run = train(policy, tokenizer, ChainSum(), ALGORITHMS["grpo"], settings, steps=3, seed=5, progress=False)
    assert without_time(panel.rows) == without_time(run.history)
    assert fingerprint(panel.policy) == fingerprint(policy) != fingerprint(load_base()[0])


def test_after_stop_rows_and_policy_stand_and_start_begins_anew(panel):
    panel.buttons["start"].click()
    assert all(slider.disabled for slider in panel.sliders.values()) and panel.buttons["start"].disabled
    until(lambda: len(panel.rows) >= 2)
    panel.buttons["stop"].click()
    rows, policy = panel.rows, panel.policy
    kept, trained = len(rows), fingerprint(policy)
    assert panel.state == "stopped" and not panel.thread.is_alive()
    assert trained != fingerprint(load_base()[0]) and not policy.training

    panel.sliders["learning_rate"].value, panel.sliders["clip"].value = 1e-5, 0.3
    panel.buttons["start"].click()
    until(lambda: panel.rows)
    panel.buttons["stop"].click()
    config = panel.trainer.config
    assert (config.learning_rate, config.clip_low, config.clip_high) == (1e-5, 0.3, 0.3)
    assert panel.rows is not rows and panel.rows[0]["step"] == 0
    assert panel.rows[0]["reward"] == rows[0]["reward"]  # the same first batch from the same base
    assert len(rows) == kept and fingerprint(policy) == trained  # who kept the old ones has them still


def test_pause_holds_the_step_and_start_goes_on(panel):
    panel.buttons["start"].click()
    until(lambda: panel.rows)
    panel.buttons["pause"].click()
    until(lambda: panel.state == "paused")
    held, weights, rows, policy = len(panel.rows), fingerprint(panel.policy), panel.rows, panel.policy
    time.sleep(1.0)
    assert len(panel.rows) == held and fingerprint(panel.policy) == weights and panel.thread.is_alive()
    assert panel.status.value.startswith(f"paused: step {held} of 200")
    panel.buttons["start"].click()
    until(lambda: len(rows) > held)
    assert panel.rows is rows and panel.policy is policy and panel.state == "trains"


def test_stop_ends_a_pause_too(panel):
    panel.buttons["start"].click()
    until(lambda: panel.rows)
    panel.buttons["pause"].click()
    until(lambda: panel.state == "paused")
    panel.buttons["stop"].click()
    assert panel.state == "stopped" and not panel.thread.is_alive() and panel.rows


def test_two_panels_never_train_at_once(panel):
    panel.buttons["start"].click()
    until(lambda: panel.rows)
    again = training_panel(steps=200, prompts=2)  # the cell run a second time
    assert not panel.thread.is_alive() and panel.state == "stopped" and panel.rows
    again.buttons["start"].click()
    panel.buttons["start"].click()  # the first one's buttons may still be on the page
    assert not again.thread.is_alive() and panel.thread.is_alive()
    panel.buttons["start"].click()  # a second click
    assert sum(thread.name == panel.thread.name for thread in threading.enumerate()) == 1


def test_curves_and_answers_move(panel):
    before, answers = bytes(panel.picture.value), panel.answers.value
    assert before.startswith(b"\x89PNG") and all(problem.prompt in answers for problem in panel.problems)
    assert "&lt;think&gt;" in answers or "<think>" not in answers
    panel.sliders["learning_rate"].value = 0.01
    panel.buttons["start"].click()
    until(lambda: len(panel.rows) >= 5)
    panel.buttons["stop"].click()
    assert bytes(panel.picture.value) != before and panel.answers.value != answers
    drawn = [list(line.get_ydata()) for axes in panel.figure.axes for line in axes.lines]
    assert drawn == [[row[name] for row in panel.rows] for name in ("reward", "thinks", "length")]


def test_the_notebook_may_draw_while_the_panel_trains(panel):
    """A thread that set matplotlib's style would leave it set."""
    import matplotlib

    before = dict(matplotlib.rcParams)
    panel.buttons["start"].click()
    while len(panel.rows) < 3:
        assert dict(matplotlib.rcParams) == before
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"task": "chess"}, "no task 'chess'.*chain_sum"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": 2.5}, "steps must be"),
        ({"prompts": 0}, "prompts must be"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(wrong, reason):
    with pytest.raises(InputError, match=reason) as error:
        training_panel(**wrong)
    assert "\n" not in str(error.value)


def test_an_error_in_training_is_one_line_and_loses_nothing(panel, monkeypatch):
    reward, calls = ChainSum.reward, []

    def fails_later(self, completions, problems):
        calls.append(len(problems))
        if calls.count(2) == 3:  # the third batch of two problems
            raise RuntimeError("<b>the rule\nbroke")
        return reward(self, completions, problems)

    with monkeypatch.context() as patch:
        patch.setattr(ChainSum, "reward", fails_later)
        panel.buttons["start"].click()
        panel.thread.join()
    assert panel.state.startswith("training ended: ") and "<b>the rule broke" in panel.state
    assert "\n" not in panel.state and len(panel.rows) == 2
    assert "&lt;b&gt;" in panel.status.value and "\n" not in panel.status.value
    assert not panel.buttons["start"].disabled and panel.buttons["stop"].disabled
    panel.buttons["start"].click()
    until(lambda: len(panel.rows) > 2)
    assert panel.state == "trains"


# Stored -----------------------------------------------------------------------------------------------------------


def test_what_is_stored_is_a_sentence_that_fits_a_phone(panel):
    nbformat = pytest.importorskip("nbformat")
    path = Path(__file__).resolve().parent.parent / "book" / "store_outputs.py"
    spec = importlib.util.spec_from_file_location("store_outputs", path)
    store_outputs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(store_outputs)
    for shown in (panel, play.play_clip()):
        bundle = shown._repr_mimebundle_()
        assert bundle[WIDGET]["model_id"] == shown.view.model_id
        output = nbformat.v4.new_output("execute_result", bundle, execution_count=1)
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("panel", outputs=[output])])
        store_outputs.normalise(notebook)
        (stored,) = notebook.cells[0].outputs
        assert set(stored["data"]) == {"text/plain"} and "widgets" not in notebook.metadata
        assert all(len(line) <= 42 for line in stored["data"]["text/plain"].splitlines())


def test_a_kernel_runs_it():
    """There a thread's messages go through the kernel's own sockets."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    code = "from grpo_teach.figures.live import training_panel\npanel = training_panel(steps=2, prompts=2)\npanel"
    click = "panel.buttons['start'].click()\npanel.thread.join()\nprint(panel.state, len(panel.rows))"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in (code, click)])
    where = {"metadata": {"path": str(Path(__file__).resolve().parent.parent)}}
    nbclient.NotebookClient(notebook, timeout=600, store_widget_state=False, resources=where).execute()
    panel, clicked = (cell.outputs for cell in notebook.cells)
    assert [set(output["data"]) for output in panel] == [{"text/plain", WIDGET}]
    assert [output["text"] for output in clicked] == ["finished 2\n"]


# Formulas ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("advantage", "low", "high"), [(1.0, 0.2, 0.4), (-0.5, 0.3, 0.2)])
def test_the_played_clip_is_flat_on_one_side_alone(advantage, low, high):
    played = play.play_clip()
    before = bytes(played.picture.value)
    for name, value in {"advantage": advantage, "clip_low": low, "clip_high": high}.items():
        played.controls[name].value = value
    assert bytes(played.picture.value) != before
    whole, thick = played.axes.lines
    ratios, objective, gradient = (
        torch.as_tensor(x) for x in (whole.get_xdata(), *(y.get_ydata() for y in (whole, thick)))
    )
    assert objective.max() == pytest.approx(advantage * (1 + high) if advantage > 0 else advantage * (1 - low))
    flat = ratios > 1 + high + 1e-3 if advantage > 0 else ratios < 1 - low - 1e-3
    slopes = ratios < 1 + high - 1e-3 if advantage > 0 else ratios > 1 - low + 1e-3
    assert gradient[flat].isnan().all() and not gradient[slopes].isnan().any() and flat.any()


def heights(played):
    return [bar.get_height() for bar in played.axes.patches]


def test_the_played_group():
    played = play.play_advantages()
    played.controls["group_size"].value, played.controls["right"].value = 4, 1
    assert heights(played) == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-3)  # by hand, in chapter 05
    played.controls["worth"].value = 0.1  # the division forgets the size of a difference
    assert heights(played) == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-2)
    played.controls["scale"].value = "none"
    assert heights(played) == pytest.approx([0.075, -0.025, -0.025, -0.025])
    for right in (0, 4, 16):  # more right answers than answers: all
        played.controls["right"].value = right
        assert heights(played) == [0, 0, 0, 0]


def test_the_played_estimates():
    played = play.play_kl()
    p, q = 0.9, 0.3
    played.controls["policy"].value, played.controls["reference"].value = p, q
    if_a, if_b, mean = (heights(played)[i : i + 3] for i in (0, 3, 6))
    exact = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert if_a[0] == pytest.approx(math.log(p / q), rel=1e-5)
    assert mean[0] == pytest.approx(exact, rel=1e-4) and mean[2] == pytest.approx(exact, rel=1e-4)
    assert abs(mean[1] - exact) > 0.02 and min(if_b[1:] + if_a[1:]) >= 0 > if_b[0]
    assert played.axes.lines[0].get_ydata()[0] == pytest.approx(exact, rel=1e-4)
    played.controls["reference"].value = p
    assert heights(played) == pytest.approx([0] * 9, abs=1e-6)


def test_the_played_credit():
    played = play.play_gae()
    values = play.VALUES
    for name, value in {"lam": 1.0, "gamma": 1.0, "reward": 0.7}.items():
        played.controls[name].value = value
    assert heights(played) == pytest.approx([0.7 - value for value in values], abs=1e-6)  # return minus value
    assert list(played.axes.lines[1].get_ydata()) == pytest.approx([0.7] * len(values), abs=1e-6)
    played.controls["lam"].value = 0.0
    surprises = [later - now for now, later in zip(values, [*values[1:], 0.7], strict=True)]
    assert heights(played) == pytest.approx(surprises, abs=1e-6)


# Progress ---------------------------------------------------------------------------------------------------------


def test_progress_in_a_notebook_is_a_table_and_elsewhere_text(own_progress, monkeypatch, capsys):
    report.note_progress("leave_one_out_advantages")
    result = exercises.progress()
    text = capsys.readouterr().out
    shown = []
    monkeypatch.setattr(report, "_in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    assert exercises.progress() == result and result["leave_one_out_advantages"]
    (data,) = shown
    assert data["text/plain"] + "\n" == text and capsys.readouterr().out == ""
    rows = data["text/html"].split("<tr")[1:]
    assert len(rows) == len({exercise.chapter for exercise in exercises.EXERCISES.values()})
    assert "✓ leave_one_out_advantages" in rows[2] and 'value="1" max="5"' in rows[2] and "1 of 5 solved" in rows[2]
    assert "reinforce_loss" in rows[2].split("not yet:")[1]
    assert data["text/html"].count("✓") == 1 and all(name in data["text/html"] for name in result)
