"""What the README promises can be done."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECORDS = [*(ROOT / "grpo_teach" / "recorded").glob("*.json"), *(ROOT / "benchmarks").glob("*.json")]


def test_the_example_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    quick = example.replace("steps=40", "steps=1, progress=False").replace("tokenizer, task)", "tokenizer, task, 32)")
    assert quick.count("steps=1") == 1 and quick.count("task, 32)") == 2
    exec(compile(quick, "README.md", "exec"), {})
    assert capsys.readouterr().out.count("accuracy=") == 2


def test_every_target_it_names_exists_and_the_other_way_round():
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.M))
    named = set(re.findall(r"`make ([a-z-]+)`", README))
    assert named <= targets | {"test-colab"}
    assert targets - {"help"} <= named


def test_every_file_it_names_exists():
    for name in re.findall(r"\]\(([\w./]+)\)", README) + re.findall(r"`(benchmarks/\S+?\.py|grpo_teach/\S+?)`", README):
        assert (ROOT / name).exists(), name


def test_everything_on_its_map_exists():
    (tree,) = re.findall(r"```\n(grpo_teach/.*?)```", README, flags=re.S)
    for line in tree.splitlines():
        folder = "grpo_teach/" if line.startswith("  ") else ""
        assert (ROOT / folder / line.split()[0].rstrip(",")).exists(), line


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_every_record_says_how_it_was_made(path):
    record = json.loads(path.read_text())
    about = record["manifest"]
    assert about["config"] and about["seed"] and about["threads"] and about["device"]
    assert all(about["versions"][name] for name in ("torch", "transformers"))
    runs = record["runs"] if isinstance(record["runs"], list) else sum(record["runs"].values(), [])
    assert all(run.get("seconds", run.get("wall_seconds", 0)) > 0 for run in runs)
    seeds = {run["seed"] for run in runs}  # a record made over several sittings may want some
    over_sittings = all("device" in run for run in runs)
    assert seeds == set(about["seed"]) or over_sittings and seeds < set(about["seed"])
