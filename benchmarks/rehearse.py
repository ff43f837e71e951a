"""Rehearse training at the true size on whatever machine this is: kill it after its first step, resume it, record it.

    python benchmarks/rehearse.py                                      # about an hour on 2 cores
    python benchmarks/rehearse.py --model FOLDER --out record.json     # another shape

Each run is the course's own command, ``python -m grpo_teach train``, with random weights of the model's shape, 4-bit
weights and an adapter, on the word problems that ship, and a coin for a reward. The same run is also made without the
kill. Recorded are the steps, whether they are the same in both, and the most memory that each process held.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from grpo_teach.records import RECORDED, manifest, write_json

STEPS = 2
SETTINGS = {"method": "qlora", "dtype": "bfloat16", "optimizer": "adamw8bit", "prompts": 1, "group-size": 4}
SETTINGS |= {"max-new-tokens": 16, "rows-a-pass": 2}
RUNS = {"grpo": {"algorithm": "grpo"}, "ppo": {"algorithm": "ppo", "critic": "lora"}}


def command(model: str, settings: dict, folder: Path) -> list[str]:
    """The run as a command; it goes on from a checkpoint if the folder has one."""
    options = {"model": model, "device": "cpu", "task": "gsm8k", "data": "sample", "grade": "coin"} | settings
    options |= {"steps": STEPS, "checkpoint-every": 1, "evaluate-every": 0, "problems": 0, "out": folder}
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return [sys.executable, "-m", "grpo_teach", "train", "--random-weights", "--resume", "--quiet", *flags]


def run(model: str, settings: dict, folder: Path, kill: bool) -> tuple[int, float]:
    """One process: the most bytes it held, and its seconds. With ``kill`` it dies once its first step is saved."""
    started = time.monotonic()
    process = subprocess.Popen(command(model, settings, folder), stdout=subprocess.DEVNULL)
    while kill and process.poll() is None:
        time.sleep(0.05)
        if (folder / "checkpoint.pt").exists():
            process.send_signal(signal.SIGKILL)
            break
    _, status, used = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) != (-signal.SIGKILL if kill else 0):
        raise SystemExit(f"{' '.join(command(model, settings, folder))} ended with an error")
    return used.ru_maxrss * 1024, time.monotonic() - started


def steps(folder: Path) -> list[dict]:
    """The logged steps, without what the clock says."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def rehearse(model: str, settings: dict) -> dict:
    """Steps, bytes and seconds of a run that is killed and resumed, and of the same run left alone."""
    with tempfile.TemporaryDirectory() as workspace:
        parted, whole = Path(workspace) / "parted", Path(workspace) / "whole"
        processes = {
            "killed": run(model, settings, parted, kill=True),
            "resumed": run(model, settings, parted, kill=False),
            "left alone": run(model, settings, whole, kill=False),
        }
        return {
            "processes": {name: {"peak_resident_bytes": b, "seconds": s} for name, (b, s) in processes.items()},
            "steps": steps(whole),
            "same_steps": steps(parted) == steps(whole),
            "seconds": json.loads((whole / "metrics.jsonl").read_text().splitlines()[-1])["seconds"],
            "checkpoint_bytes": (parted / "checkpoint.pt").stat().st_size,
            "config": json.loads((whole / "manifest.json").read_text())["config"],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="llama-3.2-1b", help="a shape that ships, a folder, or a name on the Hub")
    parser.add_argument("--out", type=Path, default=RECORDED / "rehearsal.json")
    arguments = parser.parse_args()
    runs = [{"name": name, "seed": 0} | rehearse(arguments.model, SETTINGS | its) for name, its in RUNS.items()]
    write_json(arguments.out, {"model": arguments.model, "runs": runs, "manifest": manifest(SETTINGS, [0])})
    for found in runs:
        most = max(process["peak_resident_bytes"] for process in found["processes"].values())
        same = "the same steps" if found["same_steps"] else "OTHER STEPS"
        speed = found["seconds"] / STEPS
        print(f"{found['name']}: {most / 2**30:.2f} GiB, {speed:.0f} s a step; killed and resumed: {same}")


if __name__ == "__main__":
    main()
