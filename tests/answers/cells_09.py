"""Chapter 09's stubs and solutions, as its notebook is to hold them; the tests read them here until there is one.

Each goes into a cell of its own: the stub with the tag ``exercise``, the solution with the tags ``solution`` and
``hide-cell``, under the line ``# @title Solution 9.N`` and with the imports that it needs.
"""

import re
from decimal import Decimal

import torch.nn.functional as F


class Stubs:
    @staticmethod
    def format_reward(completion):
        """completion: str -> float"""
        ...

    @staticmethod
    def number_reward(completion, answer):
        """completion: str, answer: str -> float"""
        ...

    @staticmethod
    def mixed_share(success, group_size):
        """success [P]: each prompt's rate; group_size: int -> float"""
        ...

    @staticmethod
    def bradley_terry_loss(chosen, rejected):
        """chosen [B], rejected [B]: scores -> scalar loss"""
        ...


class Solutions:
    @staticmethod
    def format_reward(completion):
        tags = ["<think>", "</think>", "<answer>", "</answer>"]
        if re.findall("|".join(tags), completion) != tags:  # each once, and in this order
            return 0.0
        form = r"\s*<think>.*</think>\s*<answer>.*</answer>\s*"
        return float(re.fullmatch(form, completion, re.DOTALL) is not None)

    @staticmethod
    def number_reward(completion, answer):
        if re.findall("</?answer>", completion) != ["<answer>", "</answer>"]:  # exactly one
            return 0.0
        said = completion.split("<answer>")[1].split("</answer>")[0].strip()
        number = r"[+-]?([0-9]{1,3}(,[0-9]{3})+|[0-9]+)(\.[0-9]+)?"
        if not (re.fullmatch(number, said) and re.fullmatch(number, answer.strip())):
            return 0.0
        return float(Decimal(said.replace(",", "")) == Decimal(answer.strip().replace(",", "")))

    @staticmethod
    def mixed_share(success, group_size):
        all_right = success**group_size
        all_wrong = (1 - success) ** group_size
        return float((1 - all_right - all_wrong).mean())

    @staticmethod
    def bradley_terry_loss(chosen, rejected):
        return -F.logsigmoid(chosen - rejected).mean()


STUBS, SOLUTIONS = ({name: getattr(kind, name) for name in vars(kind) if name[0] != "_"} for kind in (Stubs, Solutions))
