"""The course's task, data and reward in TRL's ``GRPOTrainer``, on as many processes as the launcher starts.

    accelerate launch --multi_gpu --num_processes 2 --max_restarts 3 -m grpo_teach.scale.trl_run --out runs/trl

On a machine without a GPU this starts two CPU processes that talk by gloo; on GPUs the same file runs under
accelerate's configuration for DDP, FSDP or DeepSpeed (``--config_file``), and ``--trl use_vllm=true`` samples with
vLLM. (``--multi_gpu`` chooses the launcher that starts several processes, with a GPU or without;
``--cpu --num_processes 2`` starts one, see huggingface/accelerate#2741.)

That launcher is torchrun's agent. It looks at its workers ten times a second; when one is gone it ends the others,
and with ``--max_restarts`` starts all of them anew. A restarted worker finds the newest whole checkpoint in ``--out``
and goes on from there. If the launcher itself was ended, the same command with ``--resume`` goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import zipfile
from pathlib import Path

import torch
from torch import distributed
from transformers import PrinterCallback, TrainerCallback

from grpo_teach import records
from grpo_teach.algorithms.grpo import GRPO
from grpo_teach.commands.flags import add_flags, at_least, given, task_flags, task_of, template_option
from grpo_teach.errors import InputError, needed
from grpo_teach.evaluate import evaluate
from grpo_teach.policy import BASES, load_policy, load_tokenizer
from grpo_teach.scale.export import to_trl
from grpo_teach.tasks import Problem

__all__ = ["OurMetrics", "joined", "main", "newest_checkpoint", "prompts", "read_metrics", "reward_function"]


def parser() -> argparse.ArgumentParser:
    known = argparse.ArgumentParser(prog="python -m grpo_teach.scale.trl_run", description=__doc__.split("\n")[0])
    known.add_argument("--seed", type=int, default=0, help="of prompts and sampling (default 0)")
    known.add_argument("--out", type=Path, default=Path("out/trl"), help="folder for records, checkpoints, policy")
    known.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint in --out")
    known.add_argument("--steps", type=int, default=60, help="batches to sample and learn from (default 60)")
    known.add_argument("--tokens", type=int, help="end sooner, with the batch that reaches so many generated tokens")
    known.add_argument("--checkpoint-every", type=int, default=10, help="batches between checkpoints (default 10)")
    known.add_argument("--rows-a-pass", type=int, help="most rows in one pass of a process; without it all of its own")
    known.add_argument("--problems", type=int, default=1024, help="held-out problems at the end (default 1024)")
    known.add_argument("--quiet", action="store_true", help="no progress bar")
    text = "more of trl.GRPOConfig's arguments, such as use_vllm=true bf16=true; each value is JSON"
    known.add_argument("--trl", nargs="+", metavar="NAME=VALUE", type=template_option, help=text)
    task_flags(known)
    add_flags(known.add_argument_group("settings"), GRPO)
    return known


def prompts(task, config: GRPO, batches: int, seed: int, bos: str | None = None) -> list[dict]:
    """``batches * prompts`` rows ``{"prompt", "answer"}``: the problems that our own engine draws with this seed.

    ``bos`` is taken off a prompt that begins with it, since TRL puts it there again.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = [problem for _ in range(batches) for problem in task.sample(config.prompts, generator)]
    return [{"prompt": p.prompt.removeprefix(bos or ""), "answer": p.answer} for p in drawn]


def reward_function(task):
    """The task's own reward, one completion at a time, in the form that TRL asks for."""

    def reward(prompts, completions, answer, log_metric, **_) -> list[float]:
        log_metric("thinks", sum(map(task.thinks, completions)) / len(completions))
        problems = [Problem(prompt, right) for prompt, right in zip(prompts, answer, strict=True)]
        return task.reward(completions, problems).flatten().tolist()

    return reward


def newest_checkpoint(folder: Path, processes: int) -> Path | None:
    """The newest checkpoint that is whole, or None: a worker may have been ended while it wrote one.

    The first process writes weights, optimizer, its random state and at last ``trainer_state.json``, so where that can
    be read, the others of its files are there. Every other process writes its random state. (What FSDP or DeepSpeed
    writes in shards is not looked into.)
    """
    random = [f"rng_state_{i}.pth" for i in range(processes)] if processes > 1 else ["rng_state.pth"]
    for path in sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            continue
        if all(zipfile.is_zipfile(path / name) for name in random):
            return path
    return None


def read_metrics(folder: Path) -> list[dict]:
    """The rows of a run's ``metrics.jsonl``; a last line that a kill cut short is left out."""
    rows = []
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            rows.append(json.loads(line))
    return rows


class OurMetrics(TrainerCallback):
    """Writes TRL's metrics as ``metrics.jsonl`` in our own engine's words, and ends the run by its tokens.

    Every process counts, the first one writes. ``tokens`` are generated ones; ``seconds`` are those of sampling and
    learning. Left out is what TRL does not measure or measures otherwise: ``clip_fraction``, and without a KL term
    ``kl``.

    Args:
        folder: where to write.
        config: the settings.
        step: batches already learnt from, when a run is resumed.
        tokens: the run ends with the batch that reaches it; None for no limit.
        writes: is this the process that writes?
        bar: to be moved on, or None.
    """

    def __init__(self, folder: Path, config: GRPO, step: int, tokens: int | None, writes: bool, bar=None):
        self.config, self.budget, self.bar = config, tokens, bar
        held = [row for row in read_metrics(folder) if row["step"] < step]
        self.tokens, self.seconds = (held[-1]["tokens"], held[-1]["seconds"]) if held else (0, 0.0)
        self.log = records.MetricsLog(folder, held) if writes else None

    def on_log(self, args, state, control, logs=None, **_):
        if "reward" not in logs:  # the summary at the end
            return
        steps = self.config.epochs * self.config.minibatches
        self.tokens += round(logs["completions/mean_length"] * self.config.prompts * self.config.group_size)
        self.seconds += logs["step_time"] * steps
        row = {"step": state.global_step // steps - 1, "reward": logs["reward"]}
        row |= {"length": logs["completions/mean_length"], "thinks": logs["thinks"], "entropy": logs["entropy"]}
        if self.config.scale != "batch":  # there TRL asks whether the whole batch's rewards are equal
            row["mixed_groups"] = 1 - logs["frac_reward_zero_std"]
        row |= {name: float(logs[name]) for name in ("kl", "loss", "grad_norm") if name in logs}
        row |= {"tokens": self.tokens, "seconds": round(self.seconds, 3)}
        if self.log:
            self.log.write(row)
        if self.bar is not None:
            self.bar.set_postfix({name: f"{row[name]:.3g}" for name in ("reward", "length")}, refresh=False)
            self.bar.update(row["step"] + 1 - self.bar.n)
        if self.budget and self.tokens >= self.budget:
            control.should_training_stop = control.should_save = True


def joined(cpu: bool):
    """Meet the other processes that the launcher has started: accelerate's ``PartialState``.

    The launcher keeps one store for all starts of its workers. In it a restarted worker may find where a dead one of
    its peers listened, and wait there in vain (pytorch/pytorch#135712); so each start has keys of its own.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and not distributed.is_initialized():
        start, address, port, rank, processes = (
            os.environ[name]
            for name in ("TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")
        )
        store = distributed.PrefixStore(f"start {start}", distributed.TCPStore(address, int(port), is_master=False))
        backend = "gloo" if cpu else "cpu:gloo,cuda:nccl"
        distributed.init_process_group(backend, store=store, rank=int(rank), world_size=int(processes))
    return needed("accelerate").PartialState(cpu=cpu)


def same_run(folder: Path, identity: dict, restarted: bool) -> None:
    """Refuse a folder that holds a run which is not to be resumed, or another one."""
    path = folder / "manifest.json"
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))["config"]
        if not restarted:
            raise InputError(f"{folder} already holds a run: resume it, or choose another folder")
        differing = sorted(k for k in held.keys() | identity.keys() if held.get(k) != identity.get(k))
        if differing:
            raise InputError(f"the run in {folder} was made with other settings: {', '.join(differing)}")


def run(args: argparse.Namespace) -> None:
    """Train, save the policy, ask the held-out problems."""
    trl, datasets = needed("trl"), needed("datasets")
    at_least(1, args, "steps", "checkpoint_every", "problems", *(["tokens"] if args.tokens is not None else []))
    cpu = not torch.cuda.is_available()
    process = joined(cpu)
    task, source = task_of(args), str(args.policy or BASES / args.task)
    tokenizer = load_tokenizer(source)
    config = GRPO(**{"max_new_tokens": task.max_new_tokens} | given(args, GRPO))
    arguments = to_trl(config, args.steps, args.seed, process.num_processes, args.rows_a_pass)
    machine = {"use_cpu": cpu, "bf16": False, "gradient_checkpointing": False, "report_to": "none"}
    machine |= {"model_init_kwargs": {"dtype": "float32"}} | dict(args.trl or [])
    fields = {field.name for field in dataclasses.fields(trl.GRPOConfig)}
    for name in machine:
        if name in arguments or name not in fields:
            why = "follows from our settings" if name in arguments else "is no argument of trl.GRPOConfig"
            raise InputError(f"--trl {name}: it {why}")

    folder, main = records.output_folder(args.out), process.is_main_process
    identity = {"task": repr(task), "policy": source, "steps": args.steps, "processes": process.num_processes}
    identity |= {"seed": args.seed, "machine": machine} | dataclasses.asdict(config)
    restarted = args.resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    same_run(folder, identity, restarted)
    process.wait_for_everyone()  # all have looked before the first one writes
    if main:
        records.write_json(folder / "manifest.json", records.manifest(identity, args.seed))
    checkpoint = newest_checkpoint(folder, process.num_processes)
    steps = config.epochs * config.minibatches
    step = int(checkpoint.name.split("-")[1]) // steps if checkpoint else 0
    bar = records.bar("TRL", "step", args.steps, step, not args.quiet) if main else None
    metrics = OurMetrics(folder, config, step, args.tokens, main, bar)
    trainer = trl.GRPOTrainer(
        model=source,
        reward_funcs=reward_function(task),
        args=trl.GRPOConfig(
            output_dir=str(folder),
            disable_tqdm=True,
            logging_steps=steps,
            save_steps=args.checkpoint_every * steps,
            save_total_limit=2,
            **arguments,
            **machine,
        ),
        train_dataset=datasets.Dataset.from_list(prompts(task, config, args.steps, args.seed, tokenizer.bos_token)),
        processing_class=tokenizer,
        callbacks=[metrics],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model(str(folder / "policy"))
    if main:
        bar.close()
        tokenizer.save_pretrained(folder / "policy")
        asked = {"temperature": config.temperature, "max_new_tokens": config.max_new_tokens}
        found = evaluate(*load_policy(folder / "policy"), task, args.problems, **asked).as_dict()
        found |= {"tokens": metrics.tokens, "seconds": round(metrics.seconds, 2), "steps": trainer.state.global_step}
        records.write_json(folder / "evaluation.json", found)
        low, high = found["interval"]
        print(f"accuracy {found['accuracy']:.1%} ({low:.1%} – {high:.1%}, {found['problems']:,} problems)")


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        run(args)
    except InputError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
