"""Word problems in GSM8K's format, for models with a chat template: GSM8K itself, generated ones, or one's own.

``Natalia sold 48 clips in April and half as many in May. How many in all?`` asks for ``72``. The model is told to
think between ``<think>`` and ``</think>`` and to answer between ``<answer>`` and ``</answer>``.
"""

from __future__ import annotations

import json
import logging
import os
import re
import zlib
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from types import MappingProxyType
from unittest import mock

import torch

from grpo_teach.errors import InputError, needed
from grpo_teach.rewards import coin, lenient_accuracy, strict_accuracy, tagged_answer
from grpo_teach.tasks.stories import SIZES, stories
from grpo_teach.tasks.task import Problem, Task

__all__ = ["WordProblems"]

SYSTEM = (
    "You solve word problems. First work the problem out step by step between <think> and </think>. "
    "Then write the result between <answer> and </answer>: one number, without a unit and without any other word."
)
DATE = "26 Jul 2024"  # some templates write today's date unless they are given one: a run would change overnight
STORY = 40  # tokens that a worked story has room in
SAMPLE = Path(__file__).parent.parent / "data" / "word_problems"
FIGURES = {"strict": strict_accuracy, "lenient": lenient_accuracy}
GRADES = FIGURES | {"coin": coin}
GO_ON = (
    "use 'stories' or 'reasoning_gym' (generated), 'sample' (60 that ship), or a folder whose train.jsonl and "
    "test.jsonl have rows"
)


class SameDay(datetime):
    """For templates that ask for the date themselves: transformers gives them no other than its own clock's."""

    @classmethod
    def now(cls, tz=None):
        return datetime.strptime(DATE, "%d %b %Y")


class WordProblems(Task):
    """Problems whose prompts are a whole conversation, as the model's own chat template writes it.

    Training draws from the train split alone. A training problem that the test split has too is left out.

    Args:
        tokenizer: with a chat template.
        source: ``"gsm8k"``, downloaded once, or read from the folder that ``$GSM8K`` names; ``"reasoning_gym"``,
            8,000 + 1,000 made up on the spot from 85 patterns, the same ones in both splits; ``"stories"``, as many of
            two steps (:mod:`grpo_teach.tasks.stories`); ``"sample"``, the 40 + 20 that ship; or a folder with
            ``train.jsonl`` and ``test.jsonl``, each line
            ``{"question": …, "answer": "worked solution\\n#### number"}``.
        grade: what training rewards: ``"strict"`` (:func:`grpo_teach.rewards.strict_accuracy`: format and number),
            ``"lenient"`` (:func:`grpo_teach.rewards.lenient_accuracy`: the last number), or ``"coin"``, to rehearse a
            run with random weights (:func:`grpo_teach.rewards.coin`). Evaluation reports strict and lenient.
        system: what the model is told before each question; without text the template's own, if it has one.
        template: what else the chat template is to know, ``{"enable_thinking": False}`` for Qwen3's.
    Raises:
        InputError: without a chat template, without network or the file, for a row without question or answer, or if
            datasets, math-verify or reasoning-gym is needed and not installed.
    Source: GSM8K, Cobbe et al. (arXiv 2110.14168); GSM-Symbolic, Mirzadeh et al. (arXiv 2410.05229).
    """

    max_new_tokens = 512

    def __init__(
        self, tokenizer, source: str | Path = "gsm8k", grade: str = "strict",
        system: str = SYSTEM, template: Mapping = MappingProxyType({}),
    ):  # fmt: skip
        if grade not in GRADES:
            raise InputError(f"grade must be one of {', '.join(GRADES)}; got {grade!r}")
        self.max_new_tokens = STORY if source == "stories" else WordProblems.max_new_tokens
        needed("math_verify")  # evaluation grades leniently too: say so before a long run, not after
        self.source, self.grade, self.solutions, self.splits = str(source), grade, {}, {}
        for split, rows in load(source).items():
            read = [_read(row, f"{source}, {split} row {i}") for i, row in enumerate(rows, start=1)]
            asked = {chat_prompt(tokenizer, question, system, template): rest for question, *rest in read}
            self.splits[split] = [Problem(prompt, answer) for prompt, (_, answer) in asked.items()]
            self.solutions |= {prompt: solution for prompt, (solution, _) in asked.items()}
        tested = {problem.prompt for problem in self.splits["test"]}
        self.splits["train"] = [problem for problem in self.splits["train"] if problem.prompt not in tested]
        if not all(self.splits.values()):
            raise InputError(f"{source} has no problem to train on that is not in its test split, or none to test")

    def __repr__(self) -> str:
        return f"WordProblems({self.source!r}, {self.grade!r}, {zlib.crc32(repr(self.splits).encode()):08x})"

    def sample(self, n: int, generator: torch.Generator, split: str = "train") -> list[Problem]:
        """Draw n problems of one split, each uniformly."""
        problems = self.splits[split]
        return [problems[i] for i in torch.randint(len(problems), (n,), generator=generator).tolist()]

    def test_set(self, n: int) -> list[Problem]:
        """The first n problems of the test split; all of them if there are fewer."""
        return self.splits["test"][:n]

    def right(self, completion: str, problem: Problem) -> float:
        """1.0 for a right answer under this task's grade, else 0.0."""
        return GRADES[self.grade](completion, problem.answer)

    def figures(self, completion: str, problem: Problem) -> dict[str, float]:
        """``strict`` and ``lenient`` accuracy, and ``format``: is the format obeyed, whatever the answer?"""
        figures = {name: grade(completion, problem.answer) for name, grade in FIGURES.items()}
        return figures | {"format": float(tagged_answer(completion) is not None)}

    def thinks(self, completion: str) -> bool:
        """Does the completion work step by step before it answers?"""
        return completion.lstrip().startswith("<think>")

    def demonstration(self, problem: Problem) -> str:
        """The worked solution in the format asked for."""
        return f"<think>\n{self.solutions[problem.prompt]}\n</think>\n<answer>{problem.answer}</answer>"


def chat_prompt(tokenizer, question: str, system: str = SYSTEM, template: Mapping = MappingProxyType({})) -> str:
    """The text that the tokenizer's chat template makes of system prompt and question, up to where the reply begins.

    Raises:
        InputError: if there is no chat template, or it takes no system prompt.
    """
    if not tokenizer.chat_template:
        raise InputError(
            "this tokenizer has no chat template: choose an instruction-tuned model, or give it a template"
        )
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": question}]
    try:
        more = {"tokenize": False, "add_generation_prompt": True, "date_string": DATE} | dict(template)
        with mock.patch("transformers.utils.chat_template_utils.datetime", SameDay, create=True):
            prompt = tokenizer.apply_chat_template(messages, **more)
        if not isinstance(prompt, str):
            raise TypeError(f"it gives {type(prompt).__name__}, no text, with {', '.join(template)}")
        return prompt
    except Exception as error:  # a template may raise anything, and some do for a system prompt
        raise InputError(f"the tokenizer's chat template refuses a system prompt and a question: {error}") from error


def load(source: str | Path) -> dict[str, list[dict]]:
    """The rows of both splits, each with ``question`` and ``answer``, by ``"train"`` and ``"test"``.

    Raises:
        InputError: if they cannot be had; the message says how to go on.
    """
    if source == "reasoning_gym":
        gym, rows = needed("reasoning_gym"), {}
        # Row i of a data set is made from seed + i, so seeds this far apart share none.
        for split, seed, size in (("train", 0, 8000), ("test", 10**6, 1000)):
            made = gym.create_dataset("gsm_symbolic", seed=seed, size=size)
            rows[split] = [row | {"answer": row["metadata"]["answer_cot"]} for row in made]
        return rows
    if source == "stories":
        return {split: stories(split) for split in SIZES}
    source = (os.environ.get("GSM8K") or source) if source == "gsm8k" else source
    try:
        if source != "gsm8k":
            folder = SAMPLE if source == "sample" else Path(source)
            return {split: _lines(folder / f"{split}.jsonl") for split in ("train", "test")}
        datasets = needed("datasets")
        datasets.disable_progress_bars()  # 8,792 rows are read before a bar can be
        datasets.logging.set_verbosity(logging.CRITICAL)  # what goes wrong is said below, in one line
        # One quick question first: load_dataset alone asks six times before it looks for a copy on this disk.
        datasets.config.HF_HUB_OFFLINE = not _on_the_hub("openai/gsm8k")
        found = datasets.load_dataset("openai/gsm8k", "main")
        return {split: list(found[split]) for split in ("train", "test")}
    except InputError:
        raise
    except Exception as error:  # no network, no such file: each library below raises its own kind
        reason = str(error.__cause__ or error).strip().split("\n")[0] or type(error).__name__
        raise InputError(f"cannot load the word problems {source} ({reason}): {GO_ON}") from error


def _lines(path: Path) -> list[dict]:
    """The rows of a JSONL file, an object a line; empty lines are passed over."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number} of {path.name} is not JSON: {error.msg}") from None
            if not isinstance(rows[-1], dict):
                raise ValueError(f"line {number} of {path.name} is no JSON object")
    if not rows:
        raise ValueError(f"{path.name} is empty")
    return rows


def _on_the_hub(name: str) -> bool:
    try:
        needed("huggingface_hub").dataset_info(name, timeout=5)
    except Exception:  # whatever the reason, a copy on this disk may do
        return False
    return True


def _read(row: dict, where: str) -> tuple[str, str, str]:
    """Question, worked solution and answer. GSM8K's notes to a calculator, ``<<48/2=24>>``, are left out."""
    question, worked = (str(row.get(column) or "").strip() for column in ("question", "answer"))
    if not question:
        raise InputError(f"{where}: no question")
    solution, _, answer = worked.rpartition("####")
    answer = answer.strip().replace(",", "")
    try:
        finite = "####" in worked and Decimal(answer).is_finite()
    except InvalidOperation:
        finite = False
    if not finite:
        raise InputError(f"{where}: no number stands behind #### in its answer")
    return question, re.sub(r"<<.*?>>", "", solution).strip(), answer
