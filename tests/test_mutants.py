"""Mistakes put into the mathematics are noticed by the tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mutants import mutated
from mutations import MUTATIONS

SCRIPT = Path(__file__).with_name("mutants.py")


@pytest.mark.parametrize("number", range(1, len(MUTATIONS) + 1))
def test_the_mutation_still_applies(number):
    file, old, new = MUTATIONS[number - 1]
    compile(mutated(file, old, new), file, "exec")


def test_no_mutation_stands_twice():
    assert len(set(MUTATIONS)) == len(MUTATIONS) >= 45


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_every_mutant_is_killed():
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parent.parent)}
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(MUTATIONS)} of {len(MUTATIONS)} mutants killed" in done.stdout
