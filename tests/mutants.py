"""Put each mistake of ``mutations.py`` into a copy of the package and see whether the tests notice.

    python tests/mutants.py --list     the mistakes, numbered
    python tests/mutants.py            all of them: exit code 1 if one goes unnoticed
    python tests/mutants.py 3 17       some of them

torch and transformers are imported once; each mutant is tested in a forked child, which takes a second or two.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from mutations import MUTATIONS

for name in ("scipy.stats", "tqdm", "transformers.models.llama.modeling_llama", "transformers.models.auto"):
    importlib.import_module(name)  # once here, and not again in each child
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast  # noqa: E402, F401

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "grpo_teach"
MATHEMATICS = ["losses", "aggregate", "advantages", "exact", "exact_world", "rollout", "algorithms", "settings"]
MATHEMATICS += ["restated"]
FIRST = {"algorithms": ["algorithms", "settings"], "losses": ["losses", "aggregate"]}  # else the module's own tests
FIRST |= {"exact": ["exact_world", "exact"]}
SECONDS = 60  # of processor time: a mutant that takes longer hangs, and has been noticed


class FirstFailure:
    """A pytest plugin that writes down the first test to fail."""

    def __init__(self, path: Path):
        self.path = path

    def pytest_runtest_logreport(self, report):
        if report.failed and not self.path.exists():
            self.path.write_text(report.nodeid.split("/")[-1])


def run_tests(copy: Path, file: str = "") -> tuple[int, str]:
    """pytest's exit code and the first failure, in a fork that imports the package from the copy.

    The tests of the mutated file come first: they fail soonest.
    """
    import resource  # absent where there is no fork

    room = Path(file).parent.name or Path(file).stem
    names = sorted(MATHEMATICS, key=lambda name: name not in FIRST.get(room, [room]))
    note = copy / "first_failure"
    note.unlink(missing_ok=True)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
            with (copy / "output").open("w") as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
            sys.path.insert(0, str(copy))
            os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # loading others' plugins takes longer than the tests
            files = [str(TESTS / f"test_{name}.py") for name in names]
            code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *files], plugins=[FirstFailure(note)])
            imported = Path(sys.modules["grpo_teach"].__file__).parent.parent
            if imported != copy:
                print(f"tested {imported}, not the copy")
                code = 3
        finally:
            os._exit(int(code))
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        hangs = os.WTERMSIG(status) == signal.SIGXCPU
        return (1, "(it hangs)") if hangs else (3, f"signal {os.WTERMSIG(status)}")
    return os.WEXITSTATUS(status), note.read_text() if note.exists() else ""


def mutated(file: str, old: str, new: str) -> str:
    """The file's text with the mistake in it."""
    text = (PACKAGE / file).read_text(encoding="utf-8")
    if text.count(old) != 1:
        raise ValueError(f"{file}: expected once, found {text.count(old)} times: {old}")
    return text.replace(old, new)


def short(text: str) -> str:
    return " ".join(text.split())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("numbers", nargs="*", type=int, help="which mutants; all if none is given")
    parser.add_argument("--list", action="store_true", help="print them and stop")
    arguments = parser.parse_args()
    chosen = arguments.numbers or range(1, len(MUTATIONS) + 1)
    if arguments.list:
        for number in chosen:
            file, old, new = MUTATIONS[number - 1]
            print(f"{number:3} {file}: {short(old)}  ->  {short(new)}")
        return 0
    torch.set_num_threads(1)
    copy = Path(tempfile.mkdtemp(prefix="mutants_")).resolve()
    shutil.copytree(PACKAGE, copy / "grpo_teach", ignore=shutil.ignore_patterns("__pycache__"))
    code, failure = run_tests(copy)
    if code:
        print((copy / "output").read_text())
        print(f"the package fails its tests without any mutation: {failure}")
        return 2
    survivors, started = [], time.monotonic()
    for number in chosen:
        file, old, new = MUTATIONS[number - 1]
        target = copy / "grpo_teach" / file
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(target.parent / "__pycache__")  # two edits within a second look alike to Python
        target.write_text(mutated(file, old, new), encoding="utf-8")
        code, failure = run_tests(copy, file)
        shutil.copy(PACKAGE / file, target)
        killed = code == 1 and failure
        if not killed:
            survivors.append(number)
        verdict = f"killed by {failure}" if killed else "SURVIVED" if code == 0 else f"COULD NOT BE TESTED ({code})"
        print(f"{number:3} {file}: {short(old)}  ->  {short(new)}\n    {verdict}", flush=True)
    shutil.rmtree(copy)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants killed in {time.monotonic() - started:.0f} s")
    if survivors:
        print(f"not killed: {survivors}")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
