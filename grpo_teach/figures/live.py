"""A panel that trains while a kernel runs; in a page without one a sentence stands in its place."""

from __future__ import annotations

import atexit
import html
import threading
import time

import torch
from matplotlib.figure import Figure

from grpo_teach.algorithms import ALGORITHMS
from grpo_teach.errors import InputError, in_one_line, needed
from grpo_teach.figures.curves import COLOURS, as_png
from grpo_teach.policy import load_base
from grpo_teach.rollout import sample
from grpo_teach.tasks import TASKS
from grpo_teach.train import Trainer, train

__all__ = ["Live", "TrainingPanel", "controls", "picture", "plain_axes", "training_panel"]

GRPO = ALGORITHMS["grpo"]
AT_WORK = "trains", "paused"
BETWEEN = 0.5  # seconds at least from one drawing to the next


class Live:
    """Widgets that a notebook shows where a kernel runs. What is stored of them is a sentence, without any state."""

    instead = "A panel stands here where a kernel runs:\nopen this chapter in JupyterLab or Colab."  # fits a phone
    view = None

    def _repr_mimebundle_(self, include=None, exclude=None):
        shown = {"version_major": 2, "version_minor": 0, "model_id": self.view.model_id}
        return {"text/plain": self.instead, "application/vnd.jupyter.widget-view+json": shown}


def controls(**wanted) -> dict:
    """Widgets by name, from ``(value, range)`` as ``interact`` abbreviates ranges, or as they are."""
    make = needed("ipywidgets").interactive.widget_from_abbrev
    found = {name: make(one[1], one[0]) if isinstance(one, tuple) else one for name, one in wanted.items()}
    for name, control in found.items():
        control.description, control.style.description_width = name, "8em"
    return found


def plain_axes(columns: int = 1, width: float = 6.4, height: float = 3.4):
    """A figure and its axes. Styled by hand: a thread that set matplotlib's own style would set it for all others."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=110, facecolor="white")
    row = figure.subplots(1, columns, squeeze=False)[0]
    for axes in row:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    return figure, row


def picture():
    """An empty picture in its own size, but no wider than the page."""
    layout = {"max_width": "100%", "margin": "0", "align_self": "flex-start"}
    return needed("ipywidgets").Image(format="png", layout=layout)


class TrainingPanel(Live):
    """GRPO in a thread of its own, under buttons and sliders; see :func:`training_panel`.

    Attributes:
        policy: what the last start trains, in place; before it, the base.
        rows: the last start's metrics, one row a step.
        state: "not started", "trains", "paused", "stopped", "finished", or in one line what ended the training.
        sliders, buttons: the widgets, by name.
    """

    now: TrainingPanel | None = None  # the panel that was started last

    def __init__(self, task: str, steps: int, prompts: int, seed: int):
        widgets, start = needed("ipywidgets"), GRPO.Settings(prompts=prompts)
        if task not in TASKS:
            raise InputError(f"there is no task {task!r} to train on; there are: {', '.join(TASKS)}")
        if type(steps) is not int or steps < 1:
            raise InputError(f"steps must be a whole number of at least 1, got {steps!r}")
        self.name, self.task, self.steps, self.prompts, self.seed = task, TASKS[task](), steps, prompts, seed
        self.problems, self.going, self.thread = self.task.test_set(3), threading.Event(), None
        self.sliders = controls(
            learning_rate=widgets.FloatLogSlider(start.learning_rate, min=-5, max=-2, step=0.05, readout_format=".1e"),
            group_size=(start.group_size, (2, 32)),
            epochs=(start.epochs, (1, 8)),
            clip=(start.clip_low, (0.0, 1.0, 0.05)),
            beta=(start.beta, (0.0, 0.5, 0.01)),
        )
        self.buttons = {name: widgets.Button(description=name) for name in ("start", "pause", "stop")}
        for act in (self.start, self.pause, self.stop):
            self.buttons[act.__name__].on_click(lambda _, act=act: act())
        self.status, self.answers, self.picture = widgets.HTML(), widgets.HTML(), picture()
        self.figure, (share, length) = plain_axes(2, 8.0, 3.0)
        share.plot([], [], color=COLOURS["grpo"], label="reward")
        share.plot([], [], "--", color="0.35", label="thinks first")
        length.plot([], [], color=COLOURS["grpo"])
        share.legend(frameon=False, loc="lower right")
        share.set(title="Mean of a batch", xlabel="step", xlim=(0, steps), ylim=(0, 1.02))
        length.set(title="Length, tokens", xlabel="step", xlim=(0, steps), ylim=(0, self.task.max_new_tokens))
        rows = [widgets.HBox(list(self.buttons.values())), *self.sliders.values()]
        self.view = widgets.VBox([*rows, self.status, self.picture, self.answers])
        self._anew()
        self._show("not started")

    def _anew(self) -> None:
        self.rows, self.stopping, self.drawn = [], False, 0.0
        self.policy, self.tokenizer = load_base(self.name)

    def settings(self):
        """What the sliders say, as GRPO's settings."""
        said = {name: slider.value for name, slider in self.sliders.items()}
        said["clip_low"] = said["clip_high"] = said.pop("clip")
        return GRPO.Settings(**said, prompts=self.prompts, max_new_tokens=self.task.max_new_tokens)

    def start(self) -> None:
        """Go on after a pause; else begin anew from the base, with what the sliders say."""
        if self.state not in AT_WORK:
            _stop_training()  # another panel's: two at once would draw from one random state
            TrainingPanel.now = self
            self._anew()
            self.thread = threading.Thread(target=self._train, args=(self.settings(),), daemon=True)
        self.going.set()
        self._say("trains")
        if self.thread.ident is None:  # it was made just now
            self.thread.start()

    def pause(self) -> None:
        """Wait once the step that runs has ended."""
        self.going.clear()

    def stop(self) -> None:
        """End after the step that runs, and wait for that; ``policy`` and ``rows`` stay as they are."""
        self.stopping = True
        self.going.set()
        if self.thread:
            self.thread.join()

    def _train(self, settings) -> None:
        def made(*args, **keywords) -> Trainer:
            self.trainer = Trainer(*args, **keywords)
            return self.trainer

        how = {"steps": self.steps, "seed": self.seed, "callbacks": [self._after], "progress": False, "kind": made}
        try:
            with in_one_line("training ended"):
                train(self.policy, self.tokenizer, self.task, GRPO, settings, **how)
            self._show("stopped" if self.stopping else "finished")
        except InputError as error:
            self._say(str(error))

    def _after(self, row: dict) -> None:
        """After each step: show it, if the last drawing is old enough, and wait while paused."""
        self.rows.append(row)
        if not self.going.is_set():
            self._show("paused")
            self.going.wait()
        elif time.monotonic() > self.drawn + BETWEEN:
            self._show("trains")
        self.trainer.stopped = self.stopping

    def _say(self, state: str) -> None:
        self.state, at_work = state, state in AT_WORK
        off = {"start": state == "trains", "pause": state != "trains", "stop": not at_work}
        for name, widget in (self.buttons | self.sliders).items():
            widget.disabled = off.get(name, at_work)
        numbers = [f"{name} {row[name]:.3g}" for row in self.rows[-1:] for name in ("reward", "length", "kl")]
        self.status.value = html.escape(", ".join([f"{state}: step {len(self.rows)} of {self.steps}", *numbers]))

    def _show(self, state: str) -> None:
        """Say it, and draw curves and answers. After the start only the thread calls this."""
        self._say(state)
        lines = [line for axes in self.figure.axes for line in axes.lines]
        for name, line in zip(("reward", "thinks", "length"), lines, strict=True):
            line.set_data(*([row[key] for row in self.rows] for key in ("step", name)))
        self.picture.value = as_png(self.figure).data
        with torch.random.fork_rng(devices=[]):  # training goes on as if nobody had looked
            torch.manual_seed(0)
            prompts = [problem.prompt for problem in self.problems]
            texts = sample(self.policy, self.tokenizer, prompts, 2, self.task.max_new_tokens).texts(self.tokenizer)
        rewards = self.task.reward(texts, self.problems).flatten()
        said = [f"{prompts[i // 2]}   reward {rewards[i]:.3g}   {text}" for i, text in enumerate(texts)]
        self.answers.value = f'<pre style="white-space: pre-wrap">{html.escape(chr(10).join(said))}</pre>'
        self.drawn = time.monotonic()


def _stop_training() -> None:
    if TrainingPanel.now is not None:
        TrainingPanel.now.stop()


atexit.register(_stop_training)  # a thread in the middle of a step would take the interpreter down with it


def training_panel(task: str = "chain_sum", steps: int = 60, prompts: int = 16, seed: int = 0) -> TrainingPanel:
    """Train the small policy by GRPO in front of your eyes: start, pause and stop it, and set it by sliders.

    Nothing runs before "start" is pressed; then a thread trains and the notebook stays free. Torch's random state is
    one for all, so a cell that draws from it meanwhile changes the run. One panel trains at a time: another's start,
    and this function, stop it.

    Args:
        task: a name in ``TASKS``.
        steps: after which it ends by itself.
        prompts: a batch.
        seed: of prompts and sampling; with the same one and the sliders' values :func:`grpo_teach.train` gives the
            same rows.
    Returns:
        The panel, for a cell to end in.
    Raises:
        InputError: for an unknown task, a number that cannot be, or without ipywidgets.
    """
    _stop_training()
    return TrainingPanel(task, steps, prompts, seed)
