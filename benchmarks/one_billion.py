"""A policy of a billion weights on one large card, every figure measured: ``python benchmarks/one_billion.py PART``.

- ``pretrain`` makes a base of the given shape from random weights, on worked solutions of generated word problems.
- ``compare`` trains that base in all four ways, as on a 16 GiB card: accuracy, peak bytes, tokens a second.
- ``trl`` takes a step of GRPO here and the same step with TRL's trainer, from the same random weights.

Nothing is downloaded. So tokens are bytes (:func:`grpo_teach.large.stand_in_tokenizer`): a generated problem has about
530 and its worked solution 280, several times what a trained tokenizer would make of them. The 15 million tokens of
``pretrain`` are thus some 18,500 problems, each of 7,899 twice or three times. ``compare`` trains on problems of the
same split, so the base has read their solutions; it evaluates on others.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from one_billion_trl import beside_trl

from grpo_teach import records
from grpo_teach.algorithms import ALGORITHMS, SFT
from grpo_teach.clinic.cost import allocated_bytes
from grpo_teach.commands.flags import add_flags, given, size
from grpo_teach.errors import InputError, TrainingDiverged
from grpo_teach.evaluate import evaluate
from grpo_teach.large import DTYPES, Options, adamw8bit, load_large, load_large_tokenizer, model_config
from grpo_teach.large.cold_start import worked_solutions
from grpo_teach.memory import Setup, Shape, predict
from grpo_teach.policy import save_policy
from grpo_teach.settings import Checked, setting
from grpo_teach.studies.resume import resumed
from grpo_teach.supervise import supervise
from grpo_teach.tasks import WordProblems
from grpo_teach.tasks.word_problems import GRADES
from grpo_teach.train import train

GIB = 2**30
BASE = ("model", "dtype", "data", "tokens", "batch", "rate")  # what a base depends on, beside the seed


@dataclass(frozen=True)
class Study(Checked):
    """What is asked of all three parts.

    Raises:
        InputError: for a number that cannot be, or an unknown name.
    """

    model: str = setting("llama-3.2-1b", "a shipped shape, or a folder with a config.json")
    device: str = setting("auto", "where", ("auto", "cpu", "cuda"))
    dtype: str = setting("auto", "of weights and arithmetic", DTYPES)
    cap: int = setting(16 * GIB, "of the card's memory for compare and trl, as 16GiB; a CPU has none")
    data: str = setting("reasoning_gym", "word problems: reasoning_gym, sample or a folder")
    tokens: int = setting(15_000_000, "pretrain: to read")
    batch: int = setting(32, "pretrain: problems a step")
    rate: float = setting(3e-4, "pretrain: learning rate at its highest", above=0, most=1)
    algorithms: tuple = setting(tuple(ALGORITHMS), "compare: which", tuple(ALGORITHMS))
    methods: tuple = setting(("lora", "qlora"), "compare and trl: which", ("lora", "qlora"))
    seeds: int = setting(3, "compare: runs of each")
    steps: int = setting(60, "compare: of each run")
    problems: int = setting(256, "compare: held-out problems")
    grade: str = setting("strict", "compare: the reward", tuple(GRADES))
    learning_rate: float = setting(5e-5, "compare: of the adapters", above=0, most=1)
    prompts: int = setting(Setup.prompts, "prompts a batch")
    group_size: int = setting(Setup.group_size, "samples a prompt")
    prompt_tokens: int = setting(Setup.prompt_tokens, "trl: of each prompt; compare's are as long as they are")
    max_new_tokens: int = setting(Setup.max_new_tokens, "longest completion, tokens")
    rows_a_pass: int = setting(Options.rows_a_pass, "rows scored at once")

    def settings(self, algorithm: str):
        """That algorithm's settings."""
        names = ("prompts", "group_size", "max_new_tokens", "learning_rate")
        return ALGORITHMS[algorithm].Settings(**{name: getattr(self, name) for name in names})

    def load(self, model, method: str, **options):
        """``(policy, tokenizer)``, as :func:`grpo_teach.large.load_large` gives them."""
        options = {"rows_a_pass": self.rows_a_pass} | options
        return load_large(model, method, self.dtype, self.device, **options)

    def under_cap(self) -> None:
        """From here on torch has no more of the card than the cap."""
        if torch.cuda.is_available() and self.device != "cpu":
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, self.cap / total))


def pretrain(study: Study, out: Path, seed: int = 0, every: int = 100, progress: bool = False) -> dict:
    """Make ``out/base``: all weights trained by SFT on worked solutions until so many tokens are read.

    8-bit AdamW; the learning rate rises over the first twentieth of the tokens and then falls to 0, both linearly. Only
    the solutions' tokens have a loss; the problems' are read, and counted. Goes on from ``out/pretraining.pt``, written
    after each ``every`` steps.

    Returns:
        The base's evaluation, as a dictionary, with ``tokens`` read; also in ``out/base.json``.
    Raises:
        InputError: if the checkpoint was made with other settings.
    """
    policy, tokenizer = study.load(study.model, "full", rows_a_pass=study.batch, random_weights=True, seed=seed)
    task, about = WordProblems(tokenizer, study.data), {name: getattr(study, name) for name in BASE} | {"seed": seed}

    def up_and_down(done: float) -> float:
        return min(20 * (done + 1e-3), 1 - done)

    run = {"tokens": study.tokens, "schedule": up_and_down, "seed": seed, "optimizer": adamw8bit, "about": about}
    run |= {"checkpoint": out / "pretraining.pt", "checkpoint_every": every, "name": "pretraining"}
    draw, rate = worked_solutions(task, study.batch), SFT(learning_rate=study.rate)
    rows = supervise(policy, tokenizer, draw, rate, **run, progress=progress)
    save_policy(policy, tokenizer, out / "base")
    policy.scoring = dataclasses.replace(policy.scoring, rows_a_pass=study.rows_a_pass)
    found = evaluate(policy, tokenizer, task, study.problems, max_new_tokens=study.max_new_tokens)
    result = found.as_dict() | {"tokens": rows[-1]["tokens"]}
    records.write_json(out / "base.json", result | {"manifest": records.manifest(about, seed)})
    return result


def compare(study: Study, out: Path, progress: bool = False) -> dict:
    """Train ``out/base`` in each way, with an adapter. A run that the record holds is not repeated.

    Returns:
        The record, written to ``out/compare.json`` after each run: by algorithm, method and seed the evaluation, peak
        bytes and tokens a second, or what stopped it.
    Raises:
        InputError: if there is no base yet, or the record was made with other settings.
    """
    path, grows = out / "compare.json", ("algorithms", "methods", "seeds")  # which runs there are
    asked = {name: value for name, value in vars(study).items() if name not in grows}
    about, runs = resumed(path, records.manifest(asked, 0), {})
    if not (out / "base").exists():
        raise InputError(f"there is no base in {out}: make one first: pretrain, with the same --out")
    configs = {algorithm: study.settings(algorithm) for algorithm in study.algorithms}  # what is wrong, before loading
    study.under_cap()
    for seed in range(study.seeds):
        for method in study.methods:
            for algorithm in study.algorithms:
                name = f"{algorithm} {method} {seed}"
                if name not in runs:
                    where = out / "base", out / name.replace(" ", "-")
                    runs[name] = _train(study, algorithm, configs[algorithm], method, seed, *where, progress)
                    records.write_json(path, {"manifest": about, "runs": runs})
    return {"manifest": about, "runs": runs}


def _train(study: Study, algorithm: str, config, method: str, seed: int, base: Path, folder: Path, progress) -> dict:
    policy, tokenizer = study.load(base, method, seed=seed)
    if policy.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    task, options = WordProblems(tokenizer, study.data, study.grade), {"seed": seed, "optimizer": adamw8bit}
    options |= {"reference": False, "out": folder, "resume": True, "progress": progress}

    def note(row: dict) -> None:  # kept with the run, so that it is there after an interruption too
        row["peak_bytes"] = allocated_bytes(policy.device)

    try:
        trained = train(
            policy, tokenizer, task, ALGORITHMS[algorithm], config, steps=study.steps, callbacks=[note], **options
        )
    except TrainingDiverged as error:
        return {"stopped": str(error)}
    except torch.cuda.OutOfMemoryError:
        return {"stopped": f"out of memory under {study.cap / GIB:.1f} GiB"}
    found = {
        "peak_bytes": max((row["peak_bytes"] for row in trained.history if row["peak_bytes"]), default=None),
        "tokens": trained.tokens,
        "tokens_a_second": trained.tokens / trained.seconds,
    }
    return found | trained.evaluate(study.problems).as_dict()


def expected(study: Study, prompt_tokens: int) -> dict[str, dict]:
    """The byte ledger's peak of each set-up, by ``"algorithm method"``: bytes, phase, and whether it fits the cap."""
    shape, found = Shape.of(model_config(study.model)), {}
    dtype = "bfloat16" if study.dtype == "auto" else study.dtype
    for method in study.methods:
        options = Options(method=method, dtype=dtype, rows_a_pass=study.rows_a_pass)
        for algorithm in study.algorithms:
            run = algorithm, study.settings(algorithm), options, "adamw8bit", False, prompt_tokens
            ledger = predict(Setup.of(shape, *run))
            total = ledger.terms["total"]
            found[f"{algorithm} {method}"] = {"bytes": total, "phase": ledger.peak[0], "fits": total <= study.cap}
    return found


def flags(parser: argparse.ArgumentParser) -> None:
    """Which part, one flag for each field of a study, and where to."""
    parser.add_argument("part", choices=("pretrain", "compare", "trl"), help="which, in this order")
    parser.add_argument("--seed", type=int, default=0, help="of pretrain and trl")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON on standard output")
    add_flags(parser, Study, types={"cap": size}, defaults={"cap": f"{Study.cap // GIB}GiB"})
    parser.add_argument("--expect", action="store_true", help="the byte ledger's prediction in place of the run")
    parser.add_argument("--out", type=Path, default=Path("out/one_billion"), help="folder for base, runs and records")


def run(args: argparse.Namespace) -> dict:
    """Run one part, or print what is expected of it."""
    study = Study(**given(args, Study))
    if args.expect:
        return _expect(study, args.part)
    out = records.output_folder(args.out)
    if args.part == "pretrain":
        found = pretrain(study, out, args.seed, progress=not args.quiet)
        print(f"accuracy {found['accuracy']:.1%} after {found['tokens']:,} tokens: {out / 'base'}")
    elif args.part == "compare":
        found = compare(study, out, progress=not args.quiet)
        for name, result in found["runs"].items():
            print(f"{name:24}{result.get('stopped') or _line(result)}")
    else:
        study.under_cap()
        about = {"manifest": records.manifest(dataclasses.asdict(study), args.seed)}
        found = beside_trl(study, args.seed, lambda rows: records.write_json(out / "trl.json", rows | about))
        for name, result in found.items():
            print(f"{name:24}{_line(result)}; learns in {result['learns_in']}, computes in {result['computes_in']}")
        if len({result["learns_in"] for result in found.values()}) > 1:
            print("What learns has not the same dtype in both: part of the difference is that.")
    return found


def _line(result: dict) -> str:
    peak, speed = result["peak_bytes"], result["tokens_a_second"]
    text = f"{peak / GIB:7.2f} GiB " if peak else "      - GiB "
    text += f"{speed:8,.0f} tokens a second"
    if "accuracy" in result:
        low, high = result["interval"]
        text += f"   accuracy {result['accuracy']:.1%} ({low:.1%} – {high:.1%})"
    return text


def _expect(study: Study, part: str) -> dict:
    if part == "pretrain":
        raise InputError("the byte ledger has no pretraining: --expect belongs to compare and trl")
    if part == "trl":
        study, longest = dataclasses.replace(study, algorithms=("grpo",)), study.prompt_tokens
    else:
        tokenizer = load_large_tokenizer(study.model, random_weights=True)
        problems = WordProblems(tokenizer, study.data).splits["train"]
        longest = max(len(ids) for ids in tokenizer([problem.prompt for problem in problems])["input_ids"])
    found = expected(study, longest)
    print(f"prompts of {longest} tokens, completions of {study.max_new_tokens}, cap {study.cap / GIB:.1f} GiB")
    for name, row in found.items():
        fits = "fits" if row["fits"] else "does not fit"
        print(f"{name:24}{row['bytes'] / GIB:7.2f} GiB in {row['phase']}, {fits}")
    return found


def main(arguments: list[str] | None = None) -> int:
    kind = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0], formatter_class=kind)
    flags(parser)
    args = parser.parse_args(arguments)
    try:
        found = run(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
