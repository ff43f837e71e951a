"""Mistakes put into the mathematics are noticed by the tests.

Which files' mistakes were all noticed stands in ``mutants.json``, with a digest of what decides it. Only what has
changed since is run; with ``GRPO_TEACH_ALL_MUTANTS=1`` all of it.
"""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import mutants
import pytest
from mutants import OWN, PACKAGE, TESTS, changed, digests, mutated, numbers_of
from mutations import FILES, MUTATIONS

SCRIPT = Path(__file__).with_name("mutants.py")


@pytest.mark.parametrize("number", range(1, len(MUTATIONS) + 1))
def test_the_mutation_still_applies(number):
    file, old, new = MUTATIONS[number - 1]
    text = mutated(file, old, new)
    if file.endswith(".py"):
        compile(text, file, "exec")


def test_no_mutation_stands_twice():
    assert len(set(MUTATIONS)) == len(MUTATIONS) >= 45


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_every_mutant_is_killed():
    everything = os.environ.get("GRPO_TEACH_ALL_MUTANTS") == "1"
    files = list(FILES) if everything else changed()
    if not files:
        return  # all were seen killed, by these very tests
    numbers = numbers_of(files)
    print(f"{len(numbers)} of {len(MUTATIONS)} mutants are run, those of {', '.join(files)}")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parent.parent)}
    command = [sys.executable, str(SCRIPT), *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(numbers)} of {len(numbers)} mutants killed" in done.stdout
    if not everything:
        changes = f"Changed since mutants.json: {', '.join(files)}, or tests that their mutants run."
        again = "All were killed; `make mutants` notes it, else they are run each time."
        warnings.warn(f"{changes} So {len(numbers)} mutants were run. {again}", stacklevel=1)


# What has changed -------------------------------------------------------------------------------------------------


@pytest.fixture
def copies(tmp_path):
    """The package and the tests, to be changed."""
    left_out = shutil.ignore_patterns("__pycache__", "data", "recorded")
    for folder in (PACKAGE, TESTS):
        shutil.copytree(folder, tmp_path / folder.name, ignore=left_out)
    return tmp_path / PACKAGE.name, tmp_path / TESTS.name


def test_a_file_has_changed_with_its_text_alone(copies):
    before = digests(*copies)
    assert set(before) == set(FILES)
    with (copies[0] / "losses.py").open("a") as file:
        file.write("# another line\n")
    after = digests(*copies)
    assert [name for name in FILES if before[name] != after[name]] == ["losses.py"]


def test_a_file_has_changed_with_its_mutations(copies, monkeypatch):
    before = digests(*copies)
    monkeypatch.setitem(FILES, "score.py", FILES["score.py"][1:])
    after = digests(*copies)
    assert [name for name in FILES if before[name] != after[name]] == ["score.py"]


OTHERS = FILES.keys() - OWN.keys()


@pytest.mark.parametrize(
    "test, files",
    [("test_losses", OTHERS), ("test_shapes", OTHERS), ("plain", OTHERS), ("conftest", FILES.keys())]
    + [("test_distil", {"r1/distil.py"}), ("authors", {"tasks/miniature.py"})],
)
def test_files_have_changed_with_a_test_of_theirs_or_what_it_imports(copies, test, files):
    before = digests(*copies)
    with (copies[1] / f"{test}.py").open("a") as file:
        file.write("# another line\n")
    after = digests(*copies)
    assert {name for name in FILES if before[name] != after[name]} == files


def test_another_test_and_other_line_endings_change_nothing(copies):
    before = digests(*copies)
    (copies[1] / "test_cli.py").unlink()
    for path in (*copies[0].rglob("*.py"), *copies[1].glob("*.py")):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert digests(*copies) == before


def test_what_is_noted_has_not_changed_and_without_notes_everything_has(tmp_path, monkeypatch):
    monkeypatch.setattr(mutants, "NOTES", tmp_path / "mutants.json")
    assert changed() == list(FILES)
    mutants.NOTES.write_text(json.dumps(digests() | {"losses.py": "another"}))
    assert changed() == ["losses.py"]
