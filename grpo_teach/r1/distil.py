"""Distillation: a small policy learns from a larger one, by its texts, by its probabilities, or by its judgement."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from grpo_teach import records
from grpo_teach.algorithms import ALGORITHMS, SFT, Algorithm
from grpo_teach.algorithms.common import metrics, minibatches
from grpo_teach.errors import InputError
from grpo_teach.evaluate import evaluate
from grpo_teach.losses import token_logprobs
from grpo_teach.policy import Models, frozen_copy, load_base
from grpo_teach.r1.pays import rules
from grpo_teach.rollout import sample
from grpo_teach.score import hidden_states
from grpo_teach.tasks.few_problems import Practice
from grpo_teach.tasks.miniature import Miniature
from grpo_teach.train import Trainer

LOOKS = 10  # at the held-out equations along each part of a run
RL_BATCH = 256  # texts before each update of GRPO that comes after another method

__all__ = ["METHODS", "Distillation", "distillation_loss", "on_policy_loss"]


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, mask: Tensor) -> Tensor:
    """Mean over real tokens of KL(teacher || student), nats: what the teacher finds likely, the student shall too.

    ``loss = sum_bt mask sum_v p_teacher (log p_teacher - log p_student) / sum_bt mask``

    Args:
        student_logits: [B, T, V], with gradient.
        teacher_logits: [B, T, V]; no gradient goes to them.
        mask: [B, T], 1 = a real token.
    Source: Hinton et al. (arXiv 1503.02531) section 2, at temperature 1; book Eq. (11.1).
    """
    return _mean_kl(teacher_logits.detach(), student_logits, mask)


def on_policy_loss(student_logits: Tensor, teacher_logits: Tensor, mask: Tensor) -> Tensor:
    """Mean over real tokens of KL(student || teacher), nats: what the student says, the teacher shall find likely.

    ``loss = sum_bt mask sum_v p_student (log p_student - log p_teacher) / sum_bt mask``

    To be used on texts that the student has written itself. How often it comes to a place is left out of the gradient.

    Args:
        student_logits, teacher_logits, mask: as :func:`distillation_loss` takes them.
    Source: Agarwal et al. (arXiv 2306.13649) section 3, with the reverse KL; book Eq. (11.2).
    """
    return _mean_kl(student_logits, teacher_logits.detach(), mask)


def _mean_kl(p_logits: Tensor, q_logits: Tensor, mask: Tensor) -> Tensor:
    p, q = p_logits.log_softmax(dim=-1), q_logits.log_softmax(dim=-1)
    each = (p.exp() * (p - q)).sum(dim=-1)
    return (each * mask).sum() / mask.sum()


def _distilled(label: str, divergence) -> Algorithm:
    """An algorithm that matches the teacher, who stands in the reference's place, on every row."""

    def logits(model, batch) -> Tensor:
        return model.get_output_embeddings()(hidden_states(model.get_decoder(), batch))

    def update(models, rollouts, rewards, config: SFT):
        for rows in minibatches(rollouts, config):
            batch = rollouts[rows].trimmed()
            student = logits(models.policy, batch)
            with torch.no_grad():
                teacher = logits(models.reference, batch)
            loss = divergence(student, teacher, batch.mask)
            yield loss, metrics(token_logprobs(student, batch.completion_ids).detach(), batch)

    return Algorithm(label, SFT, update)


def _all_accepted(models, rollouts, rewards, config: SFT):
    return ALGORITHMS["sft"].update(models, rollouts, torch.ones_like(rewards), config)


# By name: the algorithm, and who writes the texts it learns from.
METHODS = {
    "rl": (ALGORITHMS["grpo"], "student"),
    "texts": (ALGORITHMS["sft"], "teacher"),  # the right ones
    "all_texts": (Algorithm("distillation, all texts", SFT, _all_accepted), "teacher"),
    "logits": (_distilled("distillation, logits", distillation_loss), "teacher"),
    "on_policy": (_distilled("distillation, on-policy", on_policy_loss), "student"),
}


@dataclass(kw_only=True)
class Student(Trainer):
    """A trainer whose texts may be another's: ``writer`` samples them, the policy itself without one."""

    writer: object = None

    def sample(self):
        if self.writer is None:
            return super().sample()
        problems = self.task.sample(self.config.prompts, self.prompt_generator)
        prompts = [problem.prompt for problem in problems]
        sizes = self.config.group_size, self.config.max_new_tokens, self.config.temperature
        return problems, sample(self.writer, self.tokenizer, prompts, *sizes)


@dataclass(frozen=True)
class Distillation:
    """A small policy that learns from a larger one at a cost in tokens, and then, if asked, by reinforcement learning.

    Attributes:
        method: a name in ``METHODS``.
        base: the student's, a shipped base.
        teacher: another, one that R1's stages have made.
        tokens: that are generated for it, by whoever writes.
        then_rl: tokens that the student then generates for GRPO.
        learning_rate: of the method, falling evenly to 0 where it is no reinforcement learning.
        epochs: passes over each batch.
        batch: texts that are written before each update.
        rl_learning_rate: of GRPO that comes after.
        group_size, beta, paid: of GRPO, whether it comes after or is the method: answers to a problem, weight of the KL
            term, and the rules that pay.
        practice: ask training problems in place of the held-out ones: for choosing settings.
    """

    method: str = "texts"
    base: str = "miniature_40"
    teacher: str = "miniature_teacher"
    tokens: int = 200_000
    then_rl: int = 0
    learning_rate: float = 1e-3
    epochs: int = 1
    batch: int = 64
    rl_learning_rate: float = 3e-4
    group_size: int = 16
    beta: float = 0.0
    paid: str = "accuracy format"
    practice: bool = False

    def __post_init__(self):
        if self.method not in METHODS:
            raise InputError(f"no method {self.method!r}; there are: {', '.join(METHODS)}")
        rules(self.paid)  # refuses what it does not know, and so do the settings
        self.settings(self.method, self.learning_rate), self.settings("rl", self.rl_learning_rate)

    def settings(self, method: str, learning_rate: float):
        """The settings of a method's algorithm. Of a teacher's texts none share a prompt: groups would gain nothing."""
        algorithm, writer = METHODS[method]
        group = 1 if writer == "teacher" else self.group_size
        own = {"beta": self.beta} if method == "rl" else {"epochs": self.epochs}
        batch = self.batch if method == self.method else RL_BATCH
        sizes = {"prompts": batch // group, "group_size": group, "max_new_tokens": Miniature.max_new_tokens}
        return algorithm.Settings(learning_rate=learning_rate, **sizes, **own)

    def run(self, seed: int, progress: bool = False) -> dict:
        """Plain numbers: ``accuracy`` at the end, ``before_rl``, and the ``curve`` of accuracy on held-out equations
        against ``tokens`` and ``seconds``, the teacher's sampling and scoring included, its training not."""
        policy, tokenizer = load_base(self.base)
        teacher, _ = load_base(self.teacher)
        asked = Practice(Miniature()) if self.practice else Miniature()
        curve = {name: [] for name in ("tokens", "seconds", "accuracy", "length")}
        bar = records.bar(self.method, "token", self.tokens + self.then_rl, progress=progress)

        def learn(method: str, tokens: int, learning_rate: float, spent: tuple[int, float]) -> tuple[int, float]:
            (algorithm, writer), config = METHODS[method], self.settings(method, learning_rate)
            start = frozen_copy(policy) if method == "rl" and self.beta else None
            models = Models(policy, reference=start if method == "rl" else teacher)
            reward = rules(self.paid) if method == "rl" else None
            given = {"tokenizer": tokenizer, "task": Miniature(), "reward": reward, "seed": seed}
            trainer = Student(models, algorithm, config, writer=teacher if writer == "teacher" else None, **given)

            def look(samples: int) -> None:
                found = evaluate(policy, tokenizer, asked, 64, samples=samples, max_new_tokens=config.max_new_tokens)
                at = spent[0] + trainer.tokens, spent[1] + trainer.seconds, found.accuracy, found.mean_length
                for values, value in zip(curve.values(), at, strict=True):
                    values.append(records.short(value))

            looks = 0
            while trainer.tokens < tokens:
                if trainer.tokens >= looks * tokens / LOOKS:
                    look(samples=8)
                    looks += 1
                if method != "rl":
                    for group in trainer.optimizer.param_groups:
                        group["lr"] = config.learning_rate * (1 - trainer.tokens / tokens)
                bar.update(trainer.train_step()["tokens"] + spent[0] - bar.n)
            look(samples=32)
            return spent[0] + trainer.tokens, spent[1] + trainer.seconds

        with bar:
            spent = learn(self.method, self.tokens, self.learning_rate, (0, 0.0))
            before = curve["accuracy"][-1]
            if self.then_rl:
                spent = learn("rl", self.then_rl, self.rl_learning_rate, spent)
        ended = {"seed": seed, "accuracy": curve["accuracy"][-1], "before_rl": before}
        return ended | {"tokens": spent[0], "seconds": records.short(spent[1]), "curve": curve}
