"""How long does the demo take, from the command to its end? ``python benchmarks/demo.py [--runs N]``.

Runs ``python -m grpo_teach demo`` as a user would, start-up and evaluation included, and records the wall
seconds of each run with the results it printed: ``benchmarks/demo.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from grpo_teach.records import manifest, write_json

RECORD = Path(__file__).with_suffix(".json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=3, help="runs, seeds 0 to N-1")
    parser.add_argument("--out", type=Path, default=RECORD, help="the record to write")
    args = parser.parse_args()
    runs = []
    for seed in range(args.runs):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "grpo_teach", "demo", "--json", "--seed", str(seed), "--out", folder]
            started = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds = round(time.perf_counter() - started, 1)
        runs.append({"wall_seconds": seconds, **json.loads(done.stdout.splitlines()[-1])})
        print(f"seed {seed}: {seconds} s", flush=True)
    write_json(args.out, {"manifest": manifest({"command": "demo"}, list(range(args.runs))), "runs": runs})


if __name__ == "__main__":
    main()
