"""A reward for programs: the share of their tests that hold, run in the sandbox."""

from __future__ import annotations

import ast
import builtins
import re
import secrets
import unicodedata

from grpo_teach.rewards.sandbox import FAILED, run

__all__ = ["code_reward"]

LONGEST = 20_000  # characters of a program
# Words with which a program could look for the names of its tests' helpers, or write them.
PROBING = re.compile(r"\b(?:exec|eval|compile|locals|globals|vars|dir)\b")
# Ways to say what equals an object, is shorter than it, or counts as true.
OVERLOADING = re.compile(r"__(?!(?:init|name|main)__)\w|\b(?:setattr|type)\b")
BUILTINS = {name for name in dir(builtins) if not name.startswith("_")}
# Values that cannot be other than they look. A class of the program's own can say that it equals anything.
PLAIN = """
def {plain}(value):
    kind = {type}(value)
    if kind in ({list}, {tuple}, {set}, {frozenset}):
        for part in value:
            {plain}(part)
    elif kind is {dict}:
        for key in value:
            {plain}(key)
            {plain}(value[key])
    elif kind not in {kinds} and not {objects}:
        raise {TypeError}("not plain")
    return value
"""


class _Guarded(ast.NodeTransformer):
    """A test that asks the built-in functions themselves, and looks at every value before it uses it."""

    def __init__(self, secret: str):
        self.secret = secret

    def _looked_at(self, node: ast.expr) -> ast.expr:
        return ast.Call(ast.Name(f"{self.secret}plain", ast.Load()), [node], [])

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if isinstance(node.ctx, ast.Load):
            return ast.Name(f"{self.secret}{node.id}", node.ctx) if node.id in BUILTINS else self._looked_at(node)
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        return self._looked_at(self.generic_visit(node))


def code_reward(program: str, tests: list[str]) -> float:
    """Share of the tests that hold after the program ran: ``mean(holds(test) for test in tests)``.

    The program is run in the sandbox (:mod:`grpo_teach.rewards.sandbox`), each test after it, and never in this
    process. A program that fails, or takes longer than ``SECONDS``, gets 0.0. So does one that goes for its tests:

    - It may give a built-in function's name another meaning; the tests use the built-in function.
    - It may return objects that claim to equal anything; a test fails at a value of a class of the program's own, if
      the program says how its objects compare.
    - It may look for the tests; it runs before they are there, and ``exec``, ``eval``, ``locals`` and their like are
      refused, even in a comment.

    How it fails: right programs that use what the sandbox does not know (inheritance, ``yield``, most modules) get 0.0,
    and wrong programs pass tests that are too few. A test that changes its own arguments can be fooled by a program
    that changes them first.

    Args:
        program: Python, as the model wrote it.
        tests: ``assert`` statements.
    Returns:
        In [0, 1]; 0.0 without tests. About one second at the most.
    Raises:
        InputError: if pydantic-monty is not installed; nothing else, whatever the program.
    """
    if not tests or not isinstance(program, str) or len(program) > LONGEST:
        return 0.0
    words = unicodedata.normalize("NFKC", program)  # as Python reads names
    if PROBING.search(words):
        return 0.0
    secret = f"_{secrets.token_hex(8)}_"
    guarded = [_guarded(test, secret) for test in tests]
    helpers = _helpers(secret, objects=not OVERLOADING.search(words))
    done = run([helpers, program, *guarded])
    if done[0] is FAILED or done[1] is FAILED:
        return 0.0
    return sum(value is not FAILED for value in done[2:]) / len(tests)


def _guarded(test: str, secret: str) -> str:
    try:
        return ast.unparse(ast.fix_missing_locations(_Guarded(secret).visit(ast.parse(test))))
    except (SyntaxError, ValueError, RecursionError, TypeError):  # no Python, or no text: it never holds
        return "assert False"


def _helpers(secret: str, objects: bool) -> str:
    """Every built-in function under a name that the program cannot guess, and a function that looks at values."""
    names = {name: f"{secret}{name}" for name in BUILTINS}
    saved = "".join(f"try:\n    {hidden} = {name}\nexcept NameError:\n    pass\n" for name, hidden in names.items())
    kinds = f"{secret}kinds = tuple(type(x) for x in (0, 0.5, 0j, True, None, '', b'', range(1), len, lambda: 0, int))"
    filled = PLAIN.format(plain=f"{secret}plain", kinds=f"{secret}kinds", objects=objects, **names)
    return f"{saved}\n{kinds}\n{filled}"
