"""Train several algorithms from one base at equal generated tokens, and set the results side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from grpo_teach.algorithms import ALGORITHMS
from grpo_teach.errors import InputError
from grpo_teach.evaluate import evaluate
from grpo_teach.policy import load_base
from grpo_teach.train import train

__all__ = ["compare", "table"]

PROBLEMS = 1024  # for the final accuracy: an interval of about 3 points at 90%
PROBLEMS_ON_THE_WAY = 256


def compare(
    algorithms: list[str],
    task,
    tokens: int,
    seed: int = 0,
    load: Callable = load_base,
    settings: Mapping[str, object] | None = None,
    out: Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> tuple[dict, dict[str, list[dict]]]:
    """Train each algorithm from the same base until it has generated the same number of tokens.

    Args:
        algorithms: names in ``ALGORITHMS``.
        task: what to train and evaluate on.
        tokens: the budget of each, generated tokens; a run ends with the batch that reaches it.
        seed: of each run.
        load: gives a fresh ``(policy, tokenizer)``.
        settings: overrides for every algorithm that has a setting of that name.
        out: folder for each run's records and checkpoint; None keeps none.
        resume: go on with the runs in ``out``.
        progress: show bars.
    Returns:
        ``(results, histories)``: results as ``--json`` prints them, and each run's rows of metrics.
    Raises:
        InputError: for impossible settings or an unusable folder, before anything is trained.
    """
    settings = dict(settings or {})
    configs = {
        name: ALGORITHMS[name].Settings(
            **{k: v for k, v in settings.items() if k in ALGORITHMS[name].Settings.__dataclass_fields__}
        )
        for name in algorithms
    }
    held = [out / name for name in algorithms if out and (out / name / "checkpoint.pt").exists()]
    if held and not resume:
        raise InputError(f"{held[0]} already holds a run: resume it, or choose another folder")
    policy, tokenizer = load()
    first = configs[algorithms[0]]
    asked = {"temperature": first.temperature, "max_new_tokens": first.max_new_tokens}
    base = evaluate(policy, tokenizer, task, PROBLEMS, **asked)
    results = {"base_accuracy": base.accuracy, "base_interval": list(base.interval), "algorithms": {}}
    results |= {"base_mean_length": base.mean_length, "problems": PROBLEMS, "seed": seed, "token_budget": tokens}
    histories = {}
    for name in configs:  # each once
        policy, tokenizer = load()
        run = train(
            policy,
            tokenizer,
            task,
            ALGORITHMS[name],
            configs[name],
            tokens=tokens,
            seed=seed,
            out=out / name if out else None,
            resume=resume,
            evaluate_every=5,
            problems=PROBLEMS_ON_THE_WAY,
            progress=progress,
        )
        after = run.evaluate(PROBLEMS)
        last = {"tokens": run.tokens, "length": after.mean_length, "evaluation": after.as_dict()}
        histories[name] = [*run.history, last]
        results["algorithms"][name] = {
            "accuracy": after.accuracy,
            "interval": list(after.interval),
            "seconds": round(run.seconds, 2),
            "tokens": run.tokens,
            "steps": run.step,
            "mean_length": round(after.mean_length, 2),
            "thinks": round(after.thinks, 4),
        }
    return results, histories


def table(results: dict) -> str:
    """The results as text for a terminal."""
    low, high = results["base_interval"]
    rows = [
        f"{'':26} {'accuracy':>8}  {'95% interval':>14} {'tokens':>9} {'seconds':>8} {'mean length':>11}",
        f"{'base':26} {results['base_accuracy']:>8.1%}  {f'{low:.1%} – {high:.1%}':>14} {'':>9} {'':>8} "
        f"{results['base_mean_length']:>11.1f}",
    ]
    for name, r in results["algorithms"].items():
        low, high = r["interval"]
        rows.append(
            f"{ALGORITHMS[name].label:26} {r['accuracy']:>8.1%}  {f'{low:.1%} – {high:.1%}':>14} {r['tokens']:>9,} "
            f"{r['seconds']:>8.1f} {r['mean_length']:>11.1f}"
        )
    note = (
        f"{results['problems']:,} held-out problems, one answer each; seed {results['seed']}; "
        "seconds are sampling and updates; lengths in tokens."
    )
    return "\n".join([*rows, note])
