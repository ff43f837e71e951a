"""An exercise that is answered by one of a few words: a prediction, or a diagnosis."""

from __future__ import annotations

from grpo_teach.exercises.calls import is_stub
from grpo_teach.exercises.report import Verdict

__all__ = ["Choice"]


class Choice:
    """A question with its choices; which one is right, and what a reader of each is told, a kind of question knows.

    Attributes:
        name: as :func:`grpo_teach.exercises.check` takes it.
        choices: what may be answered, and a sentence for each.
    """

    name: str
    choices: dict[str, str]

    def answer(self) -> str:
        """The right choice."""
        raise NotImplementedError

    def says(self, chosen: str) -> str:
        """What the reader is told who has chosen that."""
        raise NotImplementedError

    def examine(self, chosen) -> Verdict:
        """Judge the reader's choice; ``None``, ``...`` and an empty function are "not attempted"."""
        offered = ", ".join(f'"{choice}"' for choice in self.choices)
        if chosen is None or chosen is ... or (callable(chosen) and is_stub(chosen)):
            return Verdict(self.name, False, False, None, f"Write down one of {offered}, then run this cell again.")
        if not isinstance(chosen, str) or chosen not in self.choices:
            return Verdict(self.name, False, True, "no_such_choice", f"{chosen!r} is not offered: choose {offered}.")
        right = chosen == self.answer()
        return Verdict(self.name, right, True, None if right else chosen.replace(" ", "_"), self.says(chosen))
