"""Put each mistake of ``mutations.py`` into a copy of the package and see whether the tests notice.

    python tests/mutants.py --list       the mistakes, numbered
    python tests/mutants.py              all of them: exit code 1 if one goes unnoticed
    python tests/mutants.py --changed    those whose file or tests changed since they were last all noticed
    python tests/mutants.py 3 17         some of them

Run whole or with ``--changed``, it writes to ``mutants.json`` each file all of whose mistakes were noticed, with a
digest of what decides that: what stands there, ``test_mutants.py`` need not repeat. torch and transformers are
imported once; each mutant is tested in a forked child, which takes a second.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import gc
import hashlib
import importlib
import json
import os
import py_compile
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mutations import FILES, MUTATIONS

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "grpo_teach"
NOTES = TESTS / "mutants.json"
MATHEMATICS = ["losses", "aggregate", "advantages", "exact", "exact_world", "rollout", "algorithms", "settings"]
MATHEMATICS += ["critic", "restated", "shapes", "preferences", "verifier", "reward_model"]
MATHEMATICS += ["process_rewards", "step_model"]
FIRST = {  # what fails soonest, by the mutated file's folder or name
    "losses": ["losses", "aggregate", "shapes"],
    "advantages": ["advantages", "critic"],
    "rollout": ["shapes", "rollout", "turns"],
    "score": ["shapes", "critic", "rollout"],
    "learner": ["critic"],
    "algorithms": ["shapes", "settings", "algorithms", "critic", "restated"],
    "studies": ["exact_world", "exact"],
    "rewards": ["preferences", "verifier", "reward_model", "process_rewards", "step_model"],
}
OWN = {  # files of the laboratories, whose mistakes their own tests alone are to notice
    "tasks/miniature.py": ["miniature_figures"],
    "r1/pays.py": ["r1"],
    "r1/stages.py": ["r1"],
    "r1/distil.py": ["distil"],
    "r1/tree.py": ["search_tree"],
    "r1/value.py": ["search_tree"],
    "r1/desk.py": ["search_tree"],
    "r1/search.py": ["search_tree"],
    "large/long_run.py": ["long_run"],
    "large/shared.py": ["shared_prompts"],
    "scale/turns.py": ["scale_turns"],
    "scale/cluster.py": ["scale_cluster"],
}
OWN |= {file: ["later"] for file in FILES if file.startswith("algorithms/later/")}
OWN |= {file: ["biases"] for file in FILES if file.startswith("biases/")}
OWN |= {file: ["page_policy"] for file in FILES if file.endswith(".js")}
SECONDS = 60  # of processor time: a mutant that takes longer hangs, and has been noticed
# Assertions as they stand and no search for what was left open: both take longer than the tests.
OPTIONS = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:unraisableexception", "--assert=plain"]


def mutated(file: str, old: str, new: str, package: Path = PACKAGE) -> str:
    """The file's text with the mistake in it."""
    text = (package / file).read_text(encoding="utf-8")
    if text.count(old) != 1:
        raise ValueError(f"{file}: expected once, found {text.count(old)} times: {old}")
    return text.replace(old, new)


def tests_of(file: str) -> list[str]:
    """The tests that are to notice a file's mistakes, in the order in which they are run."""
    first = FIRST.get(Path(file).parent.name or Path(file).stem, [])
    return OWN.get(file) or first + [name for name in MATHEMATICS if name not in first]


def numbers_of(files) -> list[int]:
    """The numbers of these files' mutations, counted from 1."""
    return [number for number, (file, _, _) in enumerate(MUTATIONS, 1) if file in files]


# What has changed -------------------------------------------------------------------------------------------------


def what_they_run(tests: Path, names: list[str]) -> dict[str, str]:
    """The tests of these names, conftest.py and what these import from the folder: name and text."""
    texts, wanted = {}, ["conftest", *(f"test_{name}" for name in names)]
    while wanted:
        name = wanted.pop()
        path = tests / f"{name}.py"
        if name in texts or not path.exists():
            continue
        texts[name] = path.read_text(encoding="utf-8")  # which makes one of all line endings
        for node in ast.walk(ast.parse(texts[name])):
            if isinstance(node, ast.Import):
                wanted += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                wanted.append(node.module or "")
    return dict(sorted(texts.items()))


def digests(package: Path = PACKAGE, tests: Path = TESTS) -> dict[str, str]:
    """For each file a digest of all that decides whether its mutants are killed: its text, its mutations, the tests."""
    found, runs = {}, {}
    for file, pairs in FILES.items():
        names = tuple(sorted(tests_of(file)))
        run = runs[names] = runs.get(names) or what_they_run(tests, list(names))
        decides = [(package / file).read_text(encoding="utf-8"), pairs, run]
        found[file] = hashlib.sha256(json.dumps(decides).encode()).hexdigest()
    return found


def noted() -> dict[str, str]:
    return json.loads(NOTES.read_text(encoding="utf-8")) if NOTES.exists() else {}


def changed() -> list[str]:
    """The files whose mutants have not all been seen killed as things stand now."""
    notes = noted()
    return [file for file, digest in digests().items() if notes.get(file) != digest]


# Testing them -----------------------------------------------------------------------------------------------------


def import_once() -> None:
    """What all tests import, here and not again in each child."""
    for name in ("scipy.stats", "tqdm", "transformers.models.llama.modeling_llama", "transformers.models.auto"):
        importlib.import_module(name)
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast  # noqa: F401

    importlib.import_module("torch").set_num_threads(1)
    gc.freeze()  # the children's collector leaves all this alone


def fork_tests(copy: Path, names: list[str], seconds: int) -> int:
    """Start these tests in a fork that imports the package from the copy, and return the fork's process id."""
    import resource  # absent where there is no fork

    note = copy / "first_failure"
    note.unlink(missing_ok=True)
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 3
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        with (copy / "output").open("w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        sys.path.insert(0, str(copy))
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # loading others' plugins takes longer than the tests
        code = pytest.main([*OPTIONS, *(str(TESTS / f"test_{name}.py") for name in names)], [FirstFailure(note)])
        imported = Path(sys.modules["grpo_teach"].__file__).parent.parent
        if imported != copy:
            print(f"tested {imported}, not the copy")
            code = 3
    finally:
        os._exit(int(code))


class FirstFailure:
    """A pytest plugin that writes down the first test to fail."""

    def __init__(self, path: Path):
        self.path = path

    def pytest_runtest_logreport(self, report):
        if report.failed and not self.path.exists():
            self.path.write_text(report.nodeid.split("/")[-1])


def outcome(copy: Path, status: int) -> tuple[int, str]:
    """pytest's exit code and the first failure."""
    if os.WIFSIGNALED(status):
        hangs = os.WTERMSIG(status) == signal.SIGXCPU
        return (1, "(it hangs)") if hangs else (3, f"signal {os.WTERMSIG(status)}")
    note = copy / "first_failure"
    return os.WEXITSTATUS(status), note.read_text() if note.exists() else ""


def tested(numbers: list[int], workers: int) -> Iterator[tuple[int, int, str, Path]]:
    """Test so many at a time, each in a copy of its own: number, exit code, first failure and the copy, as they end.

    Number 0 is the package without a mistake, and runs the tests of all the others.
    """
    everybodys = dict.fromkeys(name for n in numbers if n for name in tests_of(MUTATIONS[n - 1][0]))
    folder = Path(tempfile.mkdtemp(prefix="mutants_")).resolve()
    original = folder / "original" / "grpo_teach"
    shutil.copytree(PACKAGE, original, ignore=shutil.ignore_patterns("__pycache__"))
    # Compiled files that go by the text: two edits within a second look alike to those that go by the time.
    compileall.compile_dir(original, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    free, running, waiting = [folder / str(worker) for worker in range(workers)], {}, list(numbers)
    for copy in free:
        shutil.copytree(original.parent, copy)
    try:
        while waiting or running:
            while waiting and free:
                number, copy = waiting.pop(0), free.pop()
                file, old, new = MUTATIONS[number - 1] if number else ("", "", "")
                if number:
                    (copy / "grpo_teach" / file).write_text(mutated(file, old, new, original), encoding="utf-8")
                asked = (tests_of(file), SECONDS) if number else ([*everybodys], 2 * SECONDS)
                running[fork_tests(copy, *asked)] = number, copy, file
            pid, status = os.wait()
            if pid in running:
                number, copy, file = running.pop(pid)
                if number:
                    shutil.copy(original / file, copy / "grpo_teach" / file)
                free.append(copy)
                yield number, *outcome(copy, status), copy
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        shutil.rmtree(folder)


def described(number: int) -> str:
    file, old, new = MUTATIONS[number - 1]
    return f"{number:3} {file}: {' '.join(old.split())}  ->  {' '.join(new.split())}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("numbers", nargs="*", type=int, help="which mutants; all if none is given")
    parser.add_argument("--changed", action="store_true", help="those whose file or tests changed since mutants.json")
    parser.add_argument("--workers", type=int, default=2, help="how many are tested at a time (default: 2)")
    parser.add_argument("--list", action="store_true", help="print them and stop")
    arguments = parser.parse_args()
    before = digests()
    chosen = arguments.numbers or numbers_of(changed() if arguments.changed else FILES)
    if arguments.list:
        print(*map(described, chosen), sep="\n")
        return 0
    import_once()
    survivors, started = [], time.monotonic()
    for number, code, failure, copy in tested([0, *chosen] if chosen else [], arguments.workers):
        if number == 0 and code:
            print((copy / "output").read_text())
            print(f"the package fails its tests without any mutation: {failure}")
            return 2
        if number == 0:
            continue
        killed = code == 1 and failure
        if not killed:
            survivors.append(number)
        verdict = f"killed by {failure}" if killed else "SURVIVED" if code == 0 else f"COULD NOT BE TESTED ({code})"
        print(f"{described(number)}\n    {verdict}", flush=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants killed in {time.monotonic() - started:.0f} s")
    if survivors:
        print(f"not killed: {sorted(survivors)}")
    if not arguments.numbers:
        files = {MUTATIONS[number - 1][0] for number in chosen}
        failed = {MUTATIONS[number - 1][0] for number in survivors}
        now = digests()
        notes = {file: digest for file, digest in noted().items() if file in FILES and file not in failed}
        notes |= {file: now[file] for file in files - failed if now[file] == before[file]}  # else edited meanwhile
        NOTES.write_text(json.dumps(notes, indent=1, sort_keys=True) + "\n", encoding="utf-8", newline="\n")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
