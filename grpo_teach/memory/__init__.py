"""Laboratory: the byte ledger, what fills the memory: predicted from a shape, measured, and set side by side."""

from grpo_teach.memory.ledger import CHANGES, STAYING, TERMS, Ledger, Line, changes, nearest, predict
from grpo_teach.memory.setup import MEASURED, Setup, Shape

__all__ = [
    "CHANGES",
    "MEASURED",
    "STAYING",
    "TERMS",
    "Ledger",
    "Line",
    "Setup",
    "Shape",
    "changes",
    "nearest",
    "predict",
]
