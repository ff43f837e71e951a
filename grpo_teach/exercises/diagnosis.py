"""Diagnose an unlabelled run from its curves: which bug was in it, if any?

``chapter_13.toml`` says for each choice what it would look like, and which recorded run an exercise shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from grpo_teach.exercises.choice import Choice
from grpo_teach.exercises.exercise import TEXTS
from grpo_teach.records import load_record

__all__ = ["Diagnosis"]


@dataclass(frozen=True)
class Diagnosis(Choice):
    """One run to diagnose.

    Attributes:
        name: as :func:`grpo_teach.exercises.check` takes it.
        chapter: of the book.
        label: of the run in the record ``clinic``, whose first seed is shown.
        choices: what may be answered, and what it would look like.
    """

    name: str
    chapter: int
    label: str
    choices: dict[str, str] = field(default_factory=lambda: TEXTS["diagnoses"]["choices"])

    def run(self):
        """The run, a :class:`grpo_teach.clinic.curves.Run`, as the doctor reads it."""
        from grpo_teach.bugs.scored import unpacked  # the engine of the runs takes a second to load

        record = load_record("clinic")
        return unpacked(record["runs"][self.label][0]["curves"], record["configs"][self.label])

    def answer(self) -> str:
        """The right choice: the bug's name, or ``"none that shows"``."""
        return self.label if self.label in self.choices else "none that shows"

    def says(self, chosen: str) -> str:
        """What that bug would look like, and what the doctor sees in this run."""
        from grpo_teach.clinic.doctor import examine

        seen = "\n".join(f"{found.sign}: {found.evidence}" for found in examine(self.run())) or "nothing"
        opening = "So it is." if chosen == self.answer() else "It would look otherwise."
        return f"{opening} {self.choices[chosen]}\nWhat the doctor sees in this run:\n{seen}"
