"""The tasks, by the names that the command line and the recorded studies use.

``TASKS`` are those that have a base of their own; word problems need a model, and are made with its tokenizer.
"""

from grpo_teach.tasks.addition import Addition
from grpo_teach.tasks.chain_sum import ChainSum
from grpo_teach.tasks.equation import Equation
from grpo_teach.tasks.miniature import Miniature
from grpo_teach.tasks.programs import Programs
from grpo_teach.tasks.task import Problem, Task
from grpo_teach.tasks.word_problems import WordProblems

TASKS: dict[str, type] = {"chain_sum": ChainSum, "addition": Addition, "equation": Equation, "programs": Programs}
TASKS["miniature"] = Miniature
