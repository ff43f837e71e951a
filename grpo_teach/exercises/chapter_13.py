"""Chapter 13: six runs without a label."""

from grpo_teach.exercises.diagnosis import Diagnosis
from grpo_teach.exercises.exercise import TEXTS

EXERCISES = [Diagnosis(name, 13, label) for name, label in TEXTS["diagnoses"]["runs"].items()]
