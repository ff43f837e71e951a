"""A reward for programs: the share of their tests that hold, run in the sandbox."""

from __future__ import annotations

import ast
import builtins
import re
import secrets
import symtable
import unicodedata

from grpo_teach.rewards.sandbox import FAILED, run

__all__ = ["code_reward"]

LONGEST = 20_000  # characters of a program
# Words with which a program could look for the names of its tests' helpers, or write them.
PROBING = re.compile(r"\b(?:exec|eval|locals|globals|vars|dir)\b|(?<!\.)\bcompile\b")
# Ways to say what equals an object, is shorter than it, or counts as true.
OVERLOADING = re.compile(r"__(?!(?:init|name|main)__)\w|\b(?:setattr|type)\b")
BUILTINS = {name for name in dir(builtins) if not name.startswith("_")}
MODULES = {"math", "re", "json", "datetime", "itertools", "collections", "random", "string", "decimal", "functools"}
# Values that cannot be other than they look. A class of the program's own can say that it equals anything; then lists
# are copied as well, so that nothing of the kind is put in after they were looked at.
PLAIN = """
def {plain}(value):
    kind, seen = {type}(value), value
    if kind in ({list}, {tuple}, {set}, {frozenset}):
        seen = kind([{plain}(part) for part in value])
    elif kind is {dict}:
        seen = {{{plain}(key): {plain}(value[key]) for key in value}}
    elif kind not in {kinds} and not {objects}:
        raise {TypeError}("not plain")
    return value if {objects} else seen
"""


class _Guarded(ast.NodeTransformer):
    """A test that asks the built-in functions and the modules themselves, keeps its own names to itself, and looks at
    every other value before it uses it."""

    def __init__(self, secret: str, own: set[str]):
        self.secret, self.own = secret, own

    def _looked_at(self, node: ast.expr) -> ast.expr:
        return ast.Call(ast.Name(f"{self.secret}plain", ast.Load()), [node], [])

    def _hidden(self, name: str) -> str:
        return f"{self.secret}own_{name}" if name in self.own else name

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.own:
            name = ast.Name(self._hidden(node.id), node.ctx)
            return self._looked_at(name) if isinstance(node.ctx, ast.Load) else name
        if isinstance(node.ctx, ast.Load):
            return ast.Name(f"{self.secret}{node.id}", node.ctx) if node.id in BUILTINS else self._looked_at(node)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if isinstance(node.value, ast.Name) and node.value.id in MODULES - self.own:
            return ast.Attribute(ast.Name(f"{self.secret}{node.value.id}", ast.Load()), node.attr, node.ctx)
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        return self._looked_at(self.generic_visit(node))

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg(self._hidden(node.arg))

    def visit_alias(self, node: ast.alias) -> ast.alias:
        return ast.alias(node.name, self._hidden(node.asname or node.name))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.name = self._hidden(node.name)
        return self.generic_visit(node)


def code_reward(program: str, tests: list[str]) -> float:
    """Share of the tests that hold after the program ran: ``mean(holds(test) for test in tests)``.

    The program is run in the sandbox (:mod:`grpo_teach.rewards.sandbox`), each test after it, and never in this
    process. A program that fails, or takes longer than ``SECONDS``, gets 0.0. So does one that goes for its tests:

    - It may give a built-in function's name, or that of a module or of a test's own variable, another meaning; the
      tests use what they meant.
    - It may return objects that claim to equal anything; a test fails at a value of a class of the program's own, if
      the program says how its objects compare.
    - It may look for the tests; it runs before they are there, and ``exec``, ``eval``, ``locals`` and their like are
      refused, even in a comment.

    How it fails: right programs that use what the sandbox does not know (inheritance, ``yield``, most modules) get 0.0,
    and wrong programs pass tests that are too few. A test that changes its own arguments can be fooled by a program
    that changes them first. A task whose function has a built-in's name tests the built-in.

    Args:
        program: Python, as the model wrote it.
        tests: ``assert`` statements; one that asserts nothing never holds.
    Returns:
        In [0, 1]; 0.0 without tests. About one second, and two at the most.
    Raises:
        InputError: if pydantic-monty is not installed, or in a process that was forked after the sandbox had been used;
            nothing else, whatever the program.
    """
    tests = [tests] if isinstance(tests, str) else list(tests)
    if not tests or not isinstance(program, str) or len(program) > LONGEST:
        return 0.0
    words = unicodedata.normalize("NFKC", program)  # as Python reads names
    if PROBING.search(words):
        return 0.0
    secret = f"_{secrets.token_hex(8)}_"
    shared = {name for test in tests for name in _bound(test)}
    guarded = [_guarded(test, secret, shared) for test in tests]
    named = {name for name in MODULES if any(name in test for test in tests if isinstance(test, str))}
    helpers = _helpers(secret, named, objects=not OVERLOADING.search(words))
    done = run([helpers, program, *guarded])
    if done[0] is FAILED or done[1] is FAILED:
        return 0.0
    return sum(value is not FAILED for value in done[2:]) / len(tests)


NO_TEST = (SyntaxError, ValueError, RecursionError, TypeError, MemoryError)  # what reading one may raise


def _bound(test: str) -> set[str]:
    """The names that a test gives a meaning for those after it too."""
    try:
        return {name.get_name() for name in symtable.symtable(test, "", "exec").get_symbols() if name.is_assigned()
                or name.is_imported()}  # fmt: skip
    except NO_TEST:
        return set()


def _guarded(test: str, secret: str, shared: set[str]) -> str:
    try:
        tree = ast.parse(test)
        nodes = list(ast.walk(tree))
        if not any(isinstance(node, ast.Assert) for node in nodes):
            return "assert False"
        own = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        own |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        return ast.unparse(ast.fix_missing_locations(_Guarded(secret, own | shared).visit(tree)))
    except NO_TEST:  # no Python, or no text: it never holds
        return "assert False"


def _helpers(secret: str, modules: set[str], objects: bool) -> str:
    """Every built-in function, and these modules, under names that the program cannot guess; what looks at values."""
    names = {name: f"{secret}{name}" for name in BUILTINS}
    saved = "".join(f"try:\n    {hidden} = {name}\nexcept NameError:\n    pass\n" for name, hidden in names.items())
    saved += "".join(
        f"try:\n    import {name} as {secret}{name}\nexcept ImportError:\n    pass\n" for name in sorted(modules)
    )
    kinds = f"{secret}kinds = tuple(type(x) for x in (0, 0.5, 0j, True, None, '', b'', range(1), len, lambda: 0, int))"
    filled = PLAIN.format(plain=f"{secret}plain", kinds=f"{secret}kinds", objects=objects, **names)
    return f"{saved}\n{kinds}\n{filled}"
