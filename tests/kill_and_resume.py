"""Kill a training run at random moments, resume it, and compare the end with a run that was left alone.

    python tests/kill_and_resume.py [--kills 20] [--seed 0]

Each run is a forked child that trains a tiny policy and writes a checkpoint every step or two. It is killed
with SIGKILL, which no process can catch: by a timer, or by itself at a chosen system call while it writes a
file (half of it written, before the flush, before and after the rename). Then another child resumes it to the
end. Weights, optimizer, random states and metrics must equal those of the run left alone, bit for bit.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy
import torch
from states import run_differences

from grpo_teach import ALGORITHMS, ChainSum, train
from grpo_teach.policy import tiny_policy, tiny_tokenizer

STEPS = 6
SIZES = {"prompts": 3, "group_size": 4, "max_new_tokens": 5, "learning_rate": 1e-3}
RUNS = {
    "grpo": ({"epochs": 2, "minibatches": 2, "beta": 0.05}, 1),
    "ppo": ({"critic": "separate", "epochs": 2, "minibatches": 3, "kl_coefficient": 0.1}, 2),
}
MOMENTS = ["timer", "timer", "half written", "before flush", "before rename", "after rename"]


class AnyDigit(ChainSum):
    """Half of all digits are right, so that an untrained policy has something to learn."""

    def reward(self, completions, problems):
        scores = [float(text[:1] in set("02468")) for text in completions]
        return torch.tensor(scores).reshape(len(problems), -1)


def run(name: str, folder: Path) -> None:
    """Train to the end, from the checkpoint if there is one."""
    if not (folder / "checkpoint.pt").exists():
        random.seed(0)
        numpy.random.seed(0)
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    policy = tiny_policy(tokenizer, hidden_size=32, heads=2, intermediate_size=64)
    settings, checkpoint_every = RUNS[name]
    config = ALGORITHMS[name].Settings(**SIZES, **settings)
    keywords = {"steps": STEPS, "checkpoint_every": checkpoint_every, "progress": False}
    train(policy, tokenizer, AnyDigit(2), ALGORITHMS[name], config, out=folder, resume=True, **keywords)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def plant(moment: str, at_call: int) -> None:
    """Make this process kill itself at its n-th file that is written whole, at the given moment of writing."""
    module = torch if moment == "half written" else os
    name = {"half written": "save", "before flush": "fsync"}.get(moment, "replace")
    original, calls = getattr(module, name), []

    def killing(*arguments, **keywords):
        calls.append(1)
        if len(calls) < at_call:
            return original(*arguments, **keywords)
        if moment == "half written":
            original(*arguments, **keywords)
            file = arguments[1]
            file.truncate(file.tell() // 2)
            file.flush()
        if moment == "after rename":
            original(*arguments, **keywords)
        return die()

    setattr(module, name, killing)


def child(name: str, folder: Path, moment: str | None = None, at_call: int = 0, delay: float = 0.0) -> bool:
    """Run in a fork; True if it was killed, False if it reached the end."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if moment and moment != "timer":
                plant(moment, at_call)
            run(name, folder)
            status = 0
        finally:
            os._exit(status)
    if moment == "timer":
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return True
    if os.WEXITSTATUS(status):
        raise SystemExit(f"the {name} run in {folder} ended with an error")
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    draw = random.Random(arguments.seed)
    workspace = Path(tempfile.mkdtemp(prefix="kill_and_resume_"))
    seconds, kills, wrong = {}, 0, 0
    for name in RUNS:
        started = time.monotonic()
        child(name, workspace / f"{name}_alone")
        seconds[name] = time.monotonic() - started
    for attempt in range(10 * arguments.kills):
        if kills == arguments.kills:
            break
        name, moment = list(RUNS)[attempt % 2], draw.choice(MOMENTS)
        delay, at_call = draw.uniform(0, seconds[name]), draw.randrange(2, STEPS)
        folder = workspace / f"{name}_{attempt}"
        if not child(name, folder, moment, at_call, delay):
            continue  # it had ended before its kill came
        kills += 1
        log = folder / "metrics.jsonl"
        rows = len(log.read_text().splitlines()) if log.exists() else 0
        child(name, folder)
        differing = run_differences(workspace / f"{name}_alone", folder)
        wrong += bool(differing)
        place = f"{delay:.2f} s" if moment == "timer" else f"call {at_call}"
        print(f"{kills:3} {name:5} {moment:13} {place:7} {rows} rows: {differing[:3] or 'identical'}", flush=True)
    print(f"seed {arguments.seed}: {kills} kills, {kills - wrong} resumed bit for bit, {wrong} not")
    shutil.rmtree(workspace)
    return int(wrong > 0 or kills < arguments.kills)


if __name__ == "__main__":
    sys.exit(main())
