"""DeepSeek-R1's stages, each a function from one policy to the next, and runs of several in order.

Source: DeepSeek-R1 (arXiv 2501.12948) sections 2.2 (R1-Zero) and 2.3 (the four stages).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from grpo_teach import records
from grpo_teach.algorithms import ALGORITHMS, GRPO, SFT
from grpo_teach.errors import InputError
from grpo_teach.evaluate import answers, evaluate
from grpo_teach.policy import load_base, save_policy
from grpo_teach.r1.pays import BySkill, Watched, judge_of_manners, rules
from grpo_teach.rollout import sample
from grpo_teach.supervise import supervise
from grpo_teach.tasks.miniature import Miniature, Style
from grpo_teach.train import train

__all__ = ["STAGES", "Pipeline", "Run", "keep_right"]

WATCHED = ("right", "length", "thinks", "checks", "waits", "saved", "mixed", "arabic", "readable", "by_chance")
WATCHED += ("slips", "entropy", "reward")
SHOWN = "7x+4=9;", "3x+5=1;"  # held-out prompts whose answers are kept along the way
LOOKS = 0, 2, 5, 10, 20, 40, 80  # steps of a stage before which they are asked
# Careful writers: Arabic numerals alone and no slips; but they too give up now and then.
COLD = Style(persistence=0.8)


def keep_right(rewards: Tensor, most: int) -> Tensor:
    """[P, G] bool: the accepted answers (reward of at least 1), at most ``most`` of each prompt, the first ones.

    Args:
        rewards: [P, G].
        most: of one prompt, so that easy ones do not crowd out the others.
    Source: DeepSeek-R1 (arXiv 2501.12948) section 2.3.3: several answers are sampled, and only right ones kept.
    """
    accepted = rewards >= 1
    return accepted & (accepted.cumsum(dim=1) <= most)


@dataclass
class Run:
    """A policy on its way, what it has cost and what was seen."""

    base: object
    tokenizer: object
    pipeline: Pipeline
    seed: int
    policy: object
    tokens: int = 0
    seconds: float = 0.0
    curve: dict[str, list] = field(default_factory=lambda: {"tokens": [], **{name: [] for name in WATCHED}})
    transcripts: list[dict] = field(default_factory=list)

    def show(self, stage: str, step: int) -> None:
        """Ask the fixed prompts; training's random state stays as it was."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            texts = sample(self.policy, self.tokenizer, list(SHOWN), 1, 64).texts(self.tokenizer)
        self.transcripts.append({"stage": stage, "step": step, "texts": texts})


def reinforce(run: Run, stage: str, task: Miniature, reward: Callable, progress: bool, beta: float = 0.0) -> None:
    """GRPO in place until the stage's tokens are spent."""
    watched, tokens = Watched(reward, task), run.pipeline.tokens
    config = GRPO(learning_rate=run.pipeline.learning_rate, max_new_tokens=task.max_new_tokens, beta=beta)

    def note(row: dict) -> None:
        if watched.seen:  # else all of the batch's problems were to sort
            run.curve["tokens"].append(run.tokens + row["tokens"])
            for name in WATCHED:
                run.curve[name].append(row[name])
        if row["step"] + 1 in LOOKS:
            run.show(stage, row["step"] + 1)

    run.show(stage, 0)
    how = {"tokens": tokens, "seed": run.seed, "reward": watched, "callbacks": [note], "progress": progress}
    trained = train(run.policy, run.tokenizer, task, ALGORITHMS["grpo"], config, **how, reference=beta > 0)
    run.tokens, run.seconds = run.tokens + trained.tokens, run.seconds + trained.seconds


def read(run: Run, prompts: list[str], texts: list[str], epochs: int, name: str, progress: bool) -> None:
    """SFT in place on given texts, each read ``epochs`` times."""
    batch, generator = 32, torch.Generator().manual_seed(run.seed)
    order = [i for _ in range(epochs) for i in torch.randperm(len(texts), generator=generator).tolist()]
    places = iter(range(0, len(order), batch))

    def draw(done: float, _: torch.Generator) -> tuple[list[str], list[str]]:
        start = next(places)
        rows = order[start : start + batch]
        return [prompts[i] for i in rows], [texts[i] for i in rows]

    how = {"steps": -(-len(order) // batch), "seed": run.seed, "schedule": lambda done: 1 - done}
    supervise(run.policy, run.tokenizer, draw, SFT(learning_rate=1e-3), **how, name=name, progress=progress)


def zero(run: Run, progress: bool) -> None:
    """R1-Zero: reinforcement learning from the base, with rules alone."""
    reinforce(run, "zero", Miniature(), rules(run.pipeline.paid), progress)


def cold(run: Run, progress: bool) -> None:
    """A cold start: SFT on few texts of careful writers."""
    task, generator = Miniature(style=COLD), torch.Generator().manual_seed(run.seed)
    problems = task.sample(run.pipeline.examples, generator)
    texts = [task.demonstration(problem, generator=generator) for problem in problems]
    read(run, [problem.prompt for problem in problems], texts, 4, "cold start", progress)


def reasoning(run: Run, progress: bool) -> None:
    """Reinforcement learning on equations, with a reward for one language beside R1-Zero's."""
    language = " language" if run.pipeline.language else ""
    reinforce(run, "reasoning", Miniature(), rules(run.pipeline.paid + language), progress)


def rejection(run: Run, progress: bool) -> None:
    """Sample, keep what is right and readable, add general data, and let the *base* read both twice."""
    task, generator = Miniature(), torch.Generator().manual_seed(1000 + run.seed)
    problems = task.sample(600, generator)
    prompts, texts = [], []
    for part, rollouts, written in answers(run.policy, run.tokenizer, problems, 4, task.max_new_tokens, 1.0):
        good = task.reward(written, part)
        for b, text in enumerate(written):
            good[b // 4, b % 4] *= task.figures(text, part[b // 4])["readable"]
        kept = keep_right(good, 2).flatten().tolist()
        prompts += [part[b // 4].prompt for b, keep in enumerate(kept) if keep]
        texts += [text for text, keep in zip(written, kept, strict=True) if keep]
        run.tokens += rollouts.tokens
    general = Miniature("general", Style(thanks=0.2))
    others = general.sample(len(texts) // 3, generator)  # R1: 600,000 texts for reasoning, 200,000 for the rest
    texts += [general.demonstration(problem, generator=generator) for problem in others]
    prompts += [problem.prompt for problem in others]
    run.policy = copy.deepcopy(run.base)
    if texts:
        read(run, prompts, texts, 2, "rejection sampling", progress)


def everything(run: Run, progress: bool) -> None:
    """Reinforcement learning for all scenarios: rules for equations, a learned reward for the rest."""
    records.seed_everything(run.seed)
    shown = run.base if run.pipeline.judged == "base" else run.policy
    judge = judge_of_manners(shown, run.tokenizer, torch.Generator().manual_seed(run.seed))
    language = " language" if run.pipeline.language else ""
    reward = BySkill(rules(run.pipeline.paid + language), judge.reward)
    reinforce(run, "all", Miniature("both"), reward, progress, run.pipeline.beta)


STAGES = {"zero": zero, "cold": cold, "reasoning": reasoning, "rejection": rejection, "all": everything}


@dataclass(frozen=True)
class Pipeline:
    """Stages in order, from a base.

    Attributes:
        base: a shipped base's name.
        stages: names in ``STAGES``, with spaces between.
        paid: the rules that pay for an equation, as :func:`grpo_teach.r1.pays.rules` takes them.
        language: pay Arabic numerals too, in every stage of reinforcement learning but R1-Zero's.
        tokens: that each of those stages may generate.
        learning_rate: of those stages.
        examples: texts of the cold start.
        judged: whose answers the learned reward is shown: the ``"base"``'s, or those of the ``"policy"`` as it then is.
        beta: weight of k3 in the last stage, a nat: a learned reward holds only near the answers it was shown.
    """

    base: str = "miniature"
    stages: str = "cold reasoning rejection all"
    paid: str = "accuracy format"
    language: bool = True
    tokens: int = 400_000
    learning_rate: float = 3e-4
    examples: int = 128
    judged: str = "base"
    beta: float = 0.2

    def __post_init__(self):
        if unknown := set(self.stages.split() or [""]) - STAGES.keys():
            raise InputError(f"no stage {min(unknown)!r}; there are: {', '.join(STAGES)}")
        if self.judged not in ("base", "policy"):
            raise InputError(f"judged must be one of base, policy, got {self.judged!r}")
        rules(self.paid)  # refuses what it does not know before anything is trained, and so do the settings
        GRPO(learning_rate=self.learning_rate, beta=self.beta)

    def run(self, seed: int, progress: bool = False, policy=None, out: Path | None = None) -> dict:
        """Go through the stages.

        Args:
            seed: of everything random.
            progress: show bars.
            policy: to start from, where it is not the base.
            out: folder that gets the policy after each stage, under the stage's name, and ``results.json``.
        Returns:
            Plain numbers: ``accuracy``, ``tokens`` and ``seconds`` at the end; ``rows``, what :func:`examined` finds
            at the start and after each stage; ``curve``, the batches of all stages of reinforcement learning one after
            the other; ``transcripts``, answers to two held-out prompts along the way.
        Raises:
            InputError: if the base or the policy is no reader of the miniature's texts.
        """
        base, tokenizer = load_base(self.base)
        if {*Miniature.characters} - tokenizer.get_vocab().keys():
            raise InputError(f"the base {self.base!r} cannot read the miniature's texts")
        if policy and policy.config.vocab_size != len(tokenizer):
            raise InputError(f"the policy cannot read what the base {self.base!r} reads")
        records.seed_everything(seed)
        run = Run(base, tokenizer, self, seed, copy.deepcopy(policy or base))
        rows = [{"stage": "start" if policy else "base"} | examined(run)]
        for stage in self.stages.split():
            STAGES[stage](run, progress)
            rows.append({"stage": stage} | examined(run))
            if out:
                save_policy(run.policy, tokenizer, out / stage)
        run.show("end", 0)
        ended = {"seed": seed, "accuracy": rows[-1]["accuracy"], "tokens": run.tokens, "seconds": round(run.seconds, 3)}
        curve = {name: [records.short(value) for value in values] for name, values in run.curve.items()}
        found = ended | {"rows": rows, "curve": curve, "transcripts": run.transcripts}
        if out:
            records.write_json(out / "results.json", {"manifest": records.manifest(asdict(self), seed)} | found)
        return found


def examined(run: Run) -> dict:
    """2,048 answers to held-out equations and 512 to held-out digits to sort, as plain numbers."""
    asked = {"max_new_tokens": Miniature.max_new_tokens}
    reason = evaluate(run.policy, run.tokenizer, Miniature(), 64, samples=32, **asked)
    general = evaluate(run.policy, run.tokenizer, Miniature("general"), 256, samples=2, **asked)
    found = {"accuracy": reason.accuracy, "length": reason.mean_length, "thinks": reason.thinks}
    found |= {f"pass_at_{k}": share for k, share in reason.pass_at_k.items()}
    found |= {name: reason.figures[name] for name in reason.figures if name != "polite"}
    found |= {"general": general.accuracy, "polite": general.figures["polite"], "tokens": run.tokens}
    return {name: records.short(value) for name, value in found.items()}
