"""Chapter 06: what do the recorded runs show?"""

from grpo_teach.exercises.prediction import Prediction

EXERCISES = [Prediction("which_ends_highest", 6), Prediction("which_scale", 6), Prediction("which_aggregation", 6)]
