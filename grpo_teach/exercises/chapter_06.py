"""Chapter 06: what do the recorded runs show?"""

from grpo_teach.exercises.prediction import Prediction

QUESTIONS = ["which_ends_highest", "which_wins_addition", "eight_epochs", "larger_beta", "worst_group_size"]
QUESTIONS += ["which_scale", "which_aggregation", "who_starts", "who_minds_wrong_rewards"]
EXERCISES = [Prediction(name, 6) for name in QUESTIONS]
