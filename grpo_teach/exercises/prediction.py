"""Predict, then check: a question about a measurement, answered before the figure is seen.

The chapter's TOML file holds the question's choices, with a sentence for each, and two expressions: one for the
evidence, most often a recorded study, and one that reads the answer off it. So the answer follows the record when it is
made anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from grpo_teach.exercises.choice import Choice
from grpo_teach.exercises.exercise import TEXTS
from grpo_teach.records import load_record

__all__ = ["Prediction"]


@dataclass(frozen=True)
class Prediction(Choice):
    """One question; what is not given here is read from the TOML file.

    Attributes:
        name: as :func:`grpo_teach.exercises.check` takes it.
        chapter: of the book.
        helpers: names that ``record`` may use, beside what reads the recorded studies.
        choices: what may be answered, and what the reader of each answer reads.
        record: expression for the evidence: by label, one number a seed, or a single one that is exact.
        truth: expression for the right choice, given the evidence as ``found``.
    """

    name: str
    chapter: int
    helpers: dict = field(default_factory=dict, repr=False)
    choices: dict[str, str] = field(init=False)
    record: str = field(init=False)
    truth: str = field(init=False)

    def __post_init__(self):
        for key in ("choices", "record", "truth"):
            object.__setattr__(self, key, TEXTS[self.name][key])

    def found(self) -> dict[str, list[float]]:
        """The evidence."""
        from grpo_teach.studies.results import area, ends  # scipy takes a second to load; the other exercises need none

        return eval(self.record, self.helpers | {"ends": ends, "area": area, "load_record": load_record})

    def answer(self) -> str:
        """The right choice, read off the record."""
        from grpo_teach.studies.results import difference, mean, winner

        functions = {"difference": difference, "mean": mean, "winner": winner}
        return eval(self.truth, functions | {"found": self.found()})

    def says(self, chosen: str) -> str:
        """The choice's sentence, and the evidence: for each label mean, 95% interval and seeds, or the exact number."""
        from grpo_teach.studies.results import interval, mean

        rows = [self.choices[chosen]]
        for label, values in self.found().items():
            rows.append(f"{label:30} {mean(values):8.3g}")
            if len(values) > 1:
                low, high = interval(values)
                rows[-1] += f"   95% {low:.3g} to {high:.3g}, {len(values)} seeds"
        return "\n".join(rows)
