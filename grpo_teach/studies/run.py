"""Recorded studies: a grid of runs in which one thing varies, each run repeated with several seeds.

``studies.toml`` says what each study asks, holds fixed and varies; ``python -m grpo_teach record NAME`` runs it and
writes ``recorded/NAME.json``. A run is one process with one thread, so the same machine repeats it to the last bit.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import multiprocessing
import tomllib
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy
import torch

from grpo_teach import records
from grpo_teach.biases.trainers import trainer_of
from grpo_teach.errors import InputError, TrainingDiverged
from grpo_teach.evaluate import evaluate
from grpo_teach.judges.pays import algorithm_of, reward_of
from grpo_teach.large.real import Real
from grpo_teach.r1.distil import Distillation
from grpo_teach.r1.search import Search
from grpo_teach.r1.stages import Pipeline
from grpo_teach.studies.pretrain import base_of
from grpo_teach.studies.resume import resumed
from grpo_teach.studies.search import next_round, planned, trials
from grpo_teach.studies.twists import Different, Enough, teach
from grpo_teach.tasks import TASKS
from grpo_teach.tasks.few_problems import FewProblems, Leaky, Practice
from grpo_teach.train import train

__all__ = ["Variant", "check", "load_study", "overview", "record", "run", "studies"]

CURVE = ("reward", "length", "entropy", "kl", "mixed_groups", "clip_fraction", "explained_variance")
KINDS = {"r1": Pipeline, "distil": Distillation, "search": Search, "real": Real}  # other than a Variant's
ANSWERS = 2048  # sampled at the end of a run: 8 each to 256 problems, and more where there are not so many


@dataclass(frozen=True)
class Variant:
    """One column of a study: an algorithm with its settings, and what it is trained on.

    Attributes:
        algorithm: a name in ``ALGORITHMS`` or ``LATER``.
        settings: those that differ from the algorithm's defaults.
        task: a name in ``TASKS``; ``options`` are its arguments.
        base: a shipped base's name; without one, the task's own.
        thinking: the base first reads 60 batches of a mix with this share of worked answers, and so becomes a base
            that thinks more seldom or more often. None leaves it as it is.
        tokens, steps: the run ends when either is reached.
        evaluate_every: steps between evaluations.
        practice: at the end, ask training problems in place of the held-out ones: for choosing settings.
        until: the run ends before that too, one update after an evaluation that finds so large a share right.
        wrong_rewards: share of training rewards that are turned round, right or wrong.
        false_positives, false_negatives: the same for wrong answers alone, and for right ones alone.
        planted: a name in ``HACKS``: the training reward has that hole.
        judged: training is paid by a reward model that learnt from so many judged pairs of the starting policy.
        taste: the judge looks for rising digits, a matter of taste, where it otherwise looks for right answers.
        steps_paid: each step of a chain sum is paid too, by a rule of :func:`grpo_teach.judges.pays.step_judge`, or by
            a judge that learned from the errors of that name (:func:`grpo_teach.rewards.step_model.labelled`).
        best_of_n: of each group's right answers only the first is paid.
        demonstrations: learn worked answers that are given, as many, in place of the policy's own.
        dynamic: sample until the batch is full of mixed groups.
        stale: the batch is sampled by the policy of so many updates ago.
        engine: what samples otherwise than the policy says, as :func:`grpo_teach.biases.trainers.elsewhere` takes it.
        train_problems: how many different problems training may draw; None for no limit.
        also_asked: further tasks to evaluate on at the end, as options by name.
    """

    algorithm: str = "grpo"
    settings: dict = field(default_factory=dict)
    task: str = "chain_sum"
    options: dict = field(default_factory=dict)
    base: str | None = None
    thinking: float | None = None
    tokens: int | None = None
    steps: int | None = None
    evaluate_every: int = 10
    practice: bool = False
    until: float | None = None
    wrong_rewards: float = 0.0
    false_positives: float = 0.0
    false_negatives: float = 0.0
    planted: str | None = None
    judged: int = 0
    taste: bool = False
    steps_paid: str | None = None
    best_of_n: bool = False
    demonstrations: bool = False
    dynamic: bool = False
    stale: int = 0
    engine: dict = field(default_factory=dict)
    train_problems: int | None = None
    also_asked: dict = field(default_factory=dict)

    def start(self):
        """``(policy, tokenizer, task)`` as training finds them."""
        task = TASKS[self.task](**self.options)
        policy, tokenizer = copy.deepcopy(base_of(self.base or self.task, self.task, self.thinking))
        task = Practice(task) if self.practice else Leaky(task) if self.planted == "leak" else task
        return policy, tokenizer, FewProblems(task, self.train_problems) if self.train_problems else task


def load_study(name: str) -> dict:
    """One study by its name.

    Raises:
        InputError: if there is none of that name.
    """
    found = studies()
    if name not in found:
        raise InputError(f"there is no study {name!r}; there are: {', '.join(found)}")
    return found[name]


def overview() -> dict[str, dict]:
    """For each study what it asks, how many runs it has, and how many of them are recorded."""
    table = {}
    for name, study in studies().items():
        path = records.RECORDED / f"{name}.json"
        recorded = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else {}
        table[name] = {"question": study["question"], "runs": planned(study)}
        table[name]["recorded"] = sum(map(len, recorded.values()))
    return table


def studies() -> dict[str, dict]:
    """Every study by its name: ``question``, ``seeds`` and ``variants``; a search's ``trials`` too."""
    text = (Path(__file__).parent / "studies.toml").read_text(encoding="utf-8")
    tables, found = tomllib.loads(text), {}
    spaces = {name: table["variants"] for name, table in tables.items()}
    for name, common in tables.items():
        variants, question, seeds = (common.pop(key) for key in ("variants", "question", "seeds"))
        variants = spaces[variants] if isinstance(variants, str) else variants
        seeds = list(range(seeds)) if isinstance(seeds, int) else seeds
        found[name] = {"question": question, "seeds": seeds, "variants": {}}
        if rounds := common.pop("trials", None):
            found[name]["trials"] = rounds
            for label, space in variants.items():
                drawn = enumerate(trials(space, rounds[0], name))
                found[name]["variants"] |= {f"{label} {i:02}": _variant({**common, **trial}) for i, trial in drawn}
            continue
        for label, differs in variants.items():
            lists = {key: values for key, values in differs.items() if isinstance(values, list)}
            for values in itertools.product(*lists.values()):
                chosen = dict(zip(lists, values, strict=True))
                full_label = ", ".join([label, *(f"{key} {value}" for key, value in chosen.items())])
                found[name]["variants"][full_label] = _variant({**common, **differs, **chosen})
    return found


def _variant(given: dict):
    if "kind" in given:
        return KINDS[given.pop("kind")](**given)
    own = {key: given.pop(key) for key in Variant.__dataclass_fields__.keys() & given.keys()}
    return Variant(**own, settings=given)


def run(variant: Variant, seed: int, progress: bool = False) -> dict:
    """Train one variant with one seed.

    Returns:
        Plain numbers: ``accuracy`` (pass@1) and ``pass_at_8`` on 256 held-out problems, or all if there are fewer,
        with 2,048 answers together, and ``different``, how many different right answers a problem got among them;
        ``late``, the mean accuracy of the last three evaluations, this one included; ``length`` in tokens,
        ``entropy`` and ``kl`` in nats a token (means over the last five batches), ``tokens``, ``steps``, ``seconds``
        of sampling and updates, and the ``curve``: all of these along the way. A run that diverged
        counts as one that answers nothing right.
    """
    policy, tokenizer, task = variant.start()
    algorithm, rows = algorithm_of(variant, policy, tokenizer, task, seed), []
    reward = reward_of(variant, policy, tokenizer, task, seed)

    def note(row: dict) -> None:  # a record shows how good the policy is, not what it was paid
        rows.append(row | reward.graded if reward else row)
        if variant.until and row.get("evaluation", {"accuracy": 0.0})["accuracy"] >= variant.until:
            raise Enough

    config = algorithm.Settings(**{"max_new_tokens": task.max_new_tokens} | variant.settings)
    stop = {"tokens": variant.tokens, "steps": variant.steps, "evaluate_every": variant.evaluate_every}
    watch = {"problems": 256, "callbacks": [note], "reward": reward, "progress": progress}
    kind = trainer_of(variant)
    ended, at_last = {"accuracy": 0.0, "pass_at_8": 0.0, "diverged": False}, []
    try:
        with contextlib.suppress(Enough):
            if variant.demonstrations:
                teach(policy, tokenizer, task, config, variant.tokens, variant.evaluate_every, 256, note, seed)
            else:
                train(policy, tokenizer, task, algorithm, config, seed=seed, kind=kind, **stop, **watch)
        samples, counted = ANSWERS // len(task.test_set(256)), Different(task)
        last = evaluate(policy, tokenizer, counted, 256, samples=samples, max_new_tokens=config.max_new_tokens)
        at_last = [rows[-1] | {"evaluation": last.as_dict()}]
        ended |= {"accuracy": last.accuracy, "pass_at_8": last.pass_at_k[8]}
        ended |= {"length": last.mean_length, "thinks": last.thinks, "different": counted.found / last.problems}
        for name, options in variant.also_asked.items():
            other = TASKS[variant.task](**options)
            asked = evaluate(policy, tokenizer, other, 512, max_new_tokens=config.max_new_tokens)
            ended[f"accuracy_{name}"] = asked.accuracy
    except TrainingDiverged:
        ended["diverged"] = True
    spent = [{"tokens": 0, "seconds": 0.0}, *rows]  # an evaluation is made before its row's batch is learned from
    kept = [pair for pair in zip(spent, [*rows, *at_last], strict=False) if "evaluation" in pair[1]]
    curve = {name: [records.short(before[name]) for before, _ in kept] for name in ("tokens", "seconds")}
    seen = (*CURVE, *sorted(reward.graded.keys() - {*CURVE})) if reward else CURVE
    curve |= {name: [records.short(row.get(name, 0.0)) for _, row in kept] for name in seen}
    curve["accuracy"] = [records.short(row["evaluation"]["accuracy"]) for _, row in kept]
    ended["late"] = 0.0 if ended["diverged"] else float(numpy.mean(curve["accuracy"][-3:]))
    for name in ("entropy", "kl"):
        ended[name] = sum(row.get(name, 0.0) for row in rows[-5:]) / max(1, len(rows[-5:]))
    ended |= {"tokens": spent[-1]["tokens"], "steps": len(rows), "seconds": spent[-1]["seconds"]}
    return {"seed": seed} | {name: records.short(value) for name, value in ended.items()} | {"curve": curve}


def _job(variant: Variant, seed: int) -> dict:
    torch.set_num_threads(1)
    return run(variant, seed) if isinstance(variant, Variant) else variant.run(seed)


def record(name: str, out: Path | None = None, workers: int = 2, progress: bool = True) -> dict:
    """Run what is missing of a study, and write its record after every run.

    Args:
        name: a study in ``studies.toml``.
        out: the record's file; without it the one that ships with the package.
        workers: runs at a time, each one thread.
        progress: show a bar.
    Returns:
        The record: ``manifest`` and ``runs``, for each variant one result a seed.
    Raises:
        InputError: for an unknown study, or a record made with other settings or versions or on another device.
    """
    study, path = load_study(name), out or records.RECORDED / f"{name}.json"
    variants = {label: asdict(variant) for label, variant in study["variants"].items()}
    asked = {key: study[key] for key in ("question", "trials") if key in study}
    about = records.manifest(asked | {"variants": variants}, study["seeds"])
    about |= {"threads": 1, "workers": workers}
    # Seeds may be added later, and code that came after the first run is checked by repeating one of the old.
    may = ["seed", *getattr(next(iter(study["variants"].values())), "may_differ", ())]
    about, runs = resumed(path, about, {label: [] for label in variants}, may_differ=may)
    spawn, done = multiprocessing.get_context("spawn"), sum(map(len, runs.values()))
    bar = records.bar(name, "run", planned(study), done, progress)
    with ProcessPoolExecutor(workers, spawn) as pool, bar:
        try:
            while todo := next_round(study, runs):
                jobs = {pool.submit(_job, study["variants"][label], seed): label for label, seed in todo}
                for job in as_completed(jobs):
                    runs[jobs[job]] = sorted([*runs[jobs[job]], job.result()], key=lambda result: result["seed"])
                    records.write_json(path, {"manifest": about, "runs": runs}, indent=None)
                    bar.update()
        except BaseException:  # Ctrl-C too: what runs now is lost, what has ended is kept
            pool.shutdown(cancel_futures=True)
            raise
    return {"manifest": about, "runs": runs}


def check(name: str, label: str | None = None, seed: int = 0) -> dict:
    """Repeat one recorded run and compare.

    Args:
        name: a recorded study.
        label: of the variant; the first without it.
        seed: which of its runs.
    Returns:
        ``same``: is every number of the curve and of the end the same, seconds left out?
        ``same_machine``: are versions and device those of the record? ``accuracy``; ``recorded``, the range of the
        recorded ones, and ``seeds``, how many they are. Elsewhere the run is but one more seed, and one more of n + 1
        lies outside the range of the n others in 2 cases of n + 1, whatever the runs are like.
    Raises:
        InputError: if there is no such record, variant or seed.
    """
    study, held = load_study(name), records.load_record(name)
    label = label or next(iter(held["runs"]))
    recorded = {result["seed"]: result for result in held["runs"].get(label, [])}
    if seed not in recorded:
        raise InputError(f"{name} has no run of {label!r} with seed {seed}; its variants: {', '.join(held['runs'])}")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        again = pool.submit(_job, study["variants"][label], seed).result()
    here, there = records.manifest({}, []), held["manifest"]
    accuracies = [result["accuracy"] for result in recorded.values()]
    return {
        "same": _timeless({key: again.get(key) for key in recorded[seed]}) == _timeless(recorded[seed]),
        "same_machine": all(here[key] == there[key] for key in ("device", "versions", "python")),
        "accuracy": again["accuracy"],
        "recorded": [min(accuracies), max(accuracies)],
        "seeds": len(accuracies),
    }


def _timeless(result: dict) -> dict:
    curve = {key: values for key, values in result["curve"].items() if key != "seconds"}
    return result | {"seconds": None, "curve": curve}
