"""The tasks, by the names that the command line and the recorded studies use."""

from grpo_teach.tasks.addition import Addition
from grpo_teach.tasks.chain_sum import ChainSum
from grpo_teach.tasks.equation import Equation
from grpo_teach.tasks.task import Problem, Task

__all__ = ["TASKS", "Addition", "ChainSum", "Equation", "Problem", "Task"]

TASKS: dict[str, type[Task]] = {"chain_sum": ChainSum, "addition": Addition, "equation": Equation}
