"""Bugs to put into a run, by name."""

from grpo_teach.bugs.injections import BUGS

__all__ = ["BUGS"]
