"""Laboratory: the byte ledger, what fills the memory: predicted from a shape, measured, and set side by side."""

from grpo_teach.memory.ledger import CHANGES, STAYING, TERMS, Ledger, Line, changes, nearest, predict
from grpo_teach.memory.setup import Setup, Shape

__all__ = ["CHANGES", "STAYING", "TERMS", "Ledger", "Line", "Setup", "Shape", "changes", "nearest", "predict"]
