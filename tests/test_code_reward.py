"""The reward for programs: what is right is paid, and what attacks is contained and paid nothing."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("pydantic_monty", reason="the sandbox is not installed")
from hostile import HOSTILE, TESTS

from grpo_teach import InputError
from grpo_teach.rewards import code_reward, sandbox
from grpo_teach.rewards.sandbox import FAILED, SECONDS, run

RIGHT = "def f(x):\n    return x + 1"


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_is_contained_and_paid_nothing(name, capfd):
    began = time.monotonic()
    assert code_reward(HOSTILE[name], TESTS) == 0.0
    assert time.monotonic() - began < 4 * SECONDS + 3  # room for a loaded machine
    assert not Path("/tmp/escaped").exists() and capfd.readouterr() == ("", "")
    assert code_reward(RIGHT, TESTS) == 1.0  # the next one is served as ever


@pytest.mark.parametrize(
    ("program", "share"),
    [
        (RIGHT, 1.0),
        ("f = lambda x: x + 1", 1.0),
        ("def f(x):\n    return 2", 1 / 3),
        ("def f(x):\n    if x == 5:\n        return 1 / 0\n    return x + 1", 2 / 3),
        ("sum = 0\ndef f(x):\n    return sum + x + 1", 1.0),  # a built-in's name for something of its own
        ("import math\ndef f(x):\n    return math.floor(x) + 1", 1.0),
        ("def g(x):\n    return x\ndef f(x):\n    return g(x) + 1\nprint(f(1))", 1.0),
        ("def f(x):\n    return x + 1\nraise ValueError", 0.0),  # it did not run to its end
    ],
)
def test_the_share_of_the_tests_that_hold_is_paid(program, share):
    reward = code_reward(program, TESTS)
    assert reward == pytest.approx(share) and type(reward) is float


def test_tests_may_use_lists_methods_functions_and_objects():
    program = """
class Stack:
    def __init__(self):
        self.held = []

    def push(self, x):
        self.held.append(x)

    def pop(self):
        return self.held.pop()

def made():
    s = Stack()
    s.push(3)
    return s

def words(text):
    return text.split()

def f(x):
    return -x

answer = {"a": (1, [2.5, None])}
"""
    tests = ["assert made().pop() == 3", "assert made().held == [3]", "assert words('b a')[0].upper() == 'B'"]
    tests += ["assert sorted([1, 3, 2], key=f) == [3, 2, 1]", "assert len(words('a b')) == 2 and not words('')"]
    tests += ["assert answer == {'a': (1, [2.5, None])}", "assert isinstance(f(1), int) and abs(f(2)) < 3"]
    tests += ["assert all(f(x) < 0 for x in range(1, 4))", "assert list(map(f, [1])) == [-1]", "assert f is not None"]
    assert [code_reward(program, [test]) for test in tests] == [1.0] * len(tests)
    assert code_reward(program, ["assert made().pop() == 4", "assert answer == {}", "assert not f(1)"]) == 0.0


@pytest.mark.parametrize("test", ["assert f(1)", "assert len(f(1)) == 3", "assert 3 in f(1)", "assert f(1) < 0 < f(2)"])
@pytest.mark.parametrize("test_of", ["{}", "assert all(map(f, [1]))", "assert [f(1)] == [7]", "assert f(1)[0] == 7"])
def test_an_object_cannot_say_that_it_is_right(test, test_of):
    methods = ("eq", "bool", "len", "contains", "lt", "gt", "iter", "getitem")
    yes = "".join(
        f"    def __{name}__(self, *others):\n        return {'3' if name == 'len' else True}\n" for name in methods
    )
    program = f"class Yes:\n{yes}def f(x):\n    return Yes()"
    assert code_reward(program, [test_of.format(test)]) == 0.0


@pytest.mark.parametrize(
    ("program", "tests"),
    [(None, TESTS), (3, TESTS), (RIGHT, []), (RIGHT, ["assert f(1) =="]), (RIGHT, [None]), (RIGHT, ["("]), ("", [""])],
)
def test_what_is_no_program_or_no_test_raises_nothing(program, tests):
    assert code_reward(program, tests) in (0.0, 1.0)


def test_snippets_share_a_session_and_sessions_share_nothing():
    assert run(["x = 3", "x + 1"]) == [None, 4]
    assert run(["x"]) == [FAILED]
    assert run(["1 / 0", "2"]) == [FAILED, 2]
    assert run(["while True: pass", "2"]) == [FAILED, FAILED]


def test_a_worker_that_is_killed_is_replaced_and_costs_its_own_program_alone():
    run(["1"])
    for pid in children():
        if "monty" in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(pid, 9)
    results = [code_reward(RIGHT, TESTS) for _ in range(3)]
    assert set(results) <= {0.0, 1.0} and results[-1] == 1.0


def test_no_worker_outlives_its_process():
    script = (
        "from grpo_teach.rewards import code_reward\nimport os\nprint(code_reward('f = abs', ['assert f(-1) == 1']))\n"
    )
    script += "kids = open(f'/proc/{os.getpid()}/task/{os.getpid()}/children').read()\nprint(kids, flush=True)\nEND"
    for end in ("pass", "os.kill(os.getpid(), 9)", "os._exit(1)"):
        said = subprocess.run([sys.executable, "-c", script.replace("END", end)], capture_output=True, text=True).stdout
        assert said.startswith("1.0")
        workers = [int(pid) for pid in said.split()[1:]]
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{pid}/exe").exists() for pid in workers) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert workers and not any(Path(f"/proc/{pid}/exe").exists() for pid in workers), end


def test_without_the_sandbox_one_line_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydantic_monty", None)
    sandbox._pool.cache_clear()
    with pytest.raises(InputError, match="pip install pydantic-monty"):
        code_reward(RIGHT, TESTS)


# What a reviewer got through once ------------------------------------------------------------------------------------

LATER = """
class A:
    def __eq__(self, other): return True
old = []
def f(x):
    for values, n in old: values.clear(); values.extend([A()] * n)
    old.append((x, len(x)))
    return x
"""


@pytest.mark.parametrize(
    "test",
    [
        "assert [f(x) for x in ([3, 1], [2, 1], [1])] == [[1, 3], [1, 2], [1]]",
        "assert (f([3, 1, 2]), f([1])) == ([1, 2, 3], [1])",
        "assert f([3, 1]) == f([1, 3])",
    ],
)
def test_a_list_that_is_changed_after_it_was_looked_at_pays_nothing(test):
    assert code_reward(LATER, [test]) == 0.0
    assert code_reward("def f(x):\n    return sorted(x)", [test]) == 1.0


@pytest.mark.parametrize(
    "program, tests",
    [
        ("class math:\n    isclose = lambda a, b: True\ndef f(x): return 0.0", ["assert math.isclose(f(1), 2.0)"]),
        (
            "class A:\n    def isclose(a, b): return True\ndef f(x):\n    global math\n    math = A\n    return 0.0",
            ["import math\nassert math.isclose(f(1), 2.0)", "assert math.isclose(f(5), 6.0)"],
        ),
        (
            "def f(x):\n    global expected\n    expected = x\n    return x",
            ["expected = [1, 3]\nassert f([3, 1]) == expected", "assert f([3, 1]) == expected"],
        ),
        (
            "def f(x):\n    global want\n    want = x\n    return x",
            ["for x, want in [(1, 2), (5, 6)]:\n    assert f(x) == want"],
        ),
        (
            "def f(x):\n    global check\n    check = lambda *a: True\n    return x",
            ["def check(a, b):\n    return a == b\nassert check(f(1), 2)", "assert check(f(1), 2)"],
        ),
    ],
)
def test_the_names_of_the_tests_cannot_be_taken_over(program, tests):
    assert code_reward(program, tests) == 0.0


PLUS = "def f(x):\n    return x + 1"


@pytest.mark.parametrize(
    "program, tests",
    [
        (
            "def f(x):\n    return x + 1.0",
            ["import math\nassert math.isclose(f(1), 2.0)", "assert math.isclose(f(5), 6.0)"],
        ),
        (
            "def f(x):\n    return sorted(x)",
            ["expected = [1, 3]\nassert f([3, 1]) == expected", "assert f(expected) == expected"],
        ),
        (PLUS, ["for x, want in [(1, 2), (5, 6)]:\n    assert f(x) == want"]),
        (PLUS, ["def check(a, b):\n    return a == b\nassert check(f(1), 2)", "assert check(f(5), 6)"]),
        (PLUS, ["assert (lambda list: f(list))(1) == 2", "assert [f(id) for id in [1]] == [2]"]),
        (PLUS, ["assert sum(map(lambda x: f(x), [1, 2])) == 5", "assert max(f(x) for x in [1, 4]) == 5"]),
        (
            "import re\nWORD = re.compile('a+')\ndef f(x):\n    return bool(WORD.match(x))",
            ["assert f('aa')", "assert not f('b')"],
        ),
        ("def f(x):\n    x.sort()", ["x = [3, 1]\nf(x)\nassert x == [1, 3]"]),
    ],
)
def test_right_programs_hold_in_every_form_of_test(program, tests):
    assert code_reward(program, tests) == 1.0


@pytest.mark.parametrize(
    "test", ["", "# assert f(1) == 2", "pass", "1", "print(1)", "import math", "assert " + "-" * 100_000 + "1"]
)
def test_what_asserts_nothing_or_cannot_be_read_never_holds(test):
    assert code_reward(PLUS, [test, "assert f(1) == 2"]) == 0.5


def test_one_test_may_be_given_as_it_is():
    assert code_reward(PLUS, "assert f(1) == 2") == 1.0
    assert code_reward("def f(x):\n    return x", "assert f(1) == 2") == 0.0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_after_the_first_use_is_told_so_and_does_not_hang():
    script = (
        "import os, signal, sys\n"
        "from grpo_teach.rewards import code_reward\n"
        "from grpo_teach.errors import InputError\n"
        "assert code_reward('x = 1', ['assert x == 1']) == 1.0\n"
        "if os.fork() == 0:\n"
        "    signal.alarm(20)\n"
        "    try:\n"
        "        code_reward('x = 1', ['assert x == 1'])\n"
        "    except InputError as error:\n"
        "        os._exit(7 if 'spawn' in str(error) else 1)\n"
        "    os._exit(2)\n"
        "print(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "7", done.stderr
