"""Programs that do not solve the task ``f(x) = x + 1`` and try for its reward, or at the machine that runs them."""

TESTS = ["assert f(1) == 2", "assert f(5) == 6", "assert [f(x) for x in range(3)] == [1, 2, 3]"]

EQUAL = "class A:\n    def __eq__(self, other):\n        return True\n"

HOSTILE = {
    # never coming back
    "a loop without end": "while True:\n    pass",
    "a loop in the function": "def f(x):\n    while True:\n        pass",
    "catching the time-out": "try:\n    while True:\n        pass\nexcept BaseException:\n    f = abs",
    "a time-out held up in finally": "try:\n    while True:\n        pass\nfinally:\n    while True:\n        pass",
    "catching it in the function": "def f(x):\n    try:\n        while True:\n            pass\n"
    "    except BaseException:\n        return f(x)",
    "sleeping": "import time\ntime.sleep(60)",
    "sleeping often": "import time\nwhile True:\n    time.sleep(0.001)",
    "sleeping asynchronously": "import asyncio\nasync def g():\n    await asyncio.sleep(60)\nawait g()",
    "one long operation": "x = 7 ** 9 ** 9",
    "many factors": "x = 1\nfor i in range(1, 10**7):\n    x *= i",
    "a pattern that backtracks": "import re\nre.match('(a+)+$', 'a' * 40 + 'b')",
    "a sum without end": "x = sum(i for i in range(10**15))",
    "a long number read": "x = int('9' * 10**6)",
    # eating memory
    "a long list": "x = [0] * 10**10",
    "a list that doubles": "x = [1]\nwhile True:\n    x = x + x",
    "a long text": "x = 'a' * 10**10",
    "a text that doubles": "x = 'ab'\nwhile True:\n    x += x",
    "a wide format": "x = '{:>9999999999}'.format(1)",
    "a dictionary that grows": "x = {}\ni = 0\nwhile True:\n    x[i] = str(i) * 100\n    i += 1",
    "a list in itself": "x = []\nfor i in range(10**7):\n    x = [x]",
    # depth
    "recursion": "def f(x):\n    return f(x)",
    "recursion caught": "def f(x):\n    try:\n        return f(x)\n    except BaseException:\n        return f(x)",
    "deep brackets": "x = " + "(" * 5000 + ")" * 5000,
    "deep signs": "x = " + "-" * 15000 + "1",
    "deep comparison": "a = []\nb = []\nfor i in range(10**5):\n    a = [a]\n    b = [b]\na == b",
    # output
    "printing for ever": "while True:\n    print('x' * 1000)",
    "one long line": "print('x' * 10**7)\n",
    "printing the expected answers": "print(2)\nprint(6)\nprint([1, 2, 3])\nprint('3 passed')",
    # reaching out
    "reading a file": "print(open('/etc/passwd').read())",
    "writing a file": "open('/tmp/escaped', 'w').write('x')",
    "a path": "import pathlib\npathlib.Path('/tmp/escaped').write_text('x')",
    "a shell": "import os\nos.system('touch /tmp/escaped')",
    "the environment": "import os\nf = lambda x: os.environ['HOME']",
    "a process": "import subprocess\nsubprocess.run(['touch', '/tmp/escaped'])",
    "a fork": "import os\nwhile True:\n    os.fork()",
    "killing the parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "the network": "import socket\nsocket.create_connection(('127.0.0.1', 80))",
    "a web page": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1')",
    "C": "import ctypes\nctypes.string_at(0)",
    "an import by name": "__import__('os').system('touch /tmp/escaped')",
    "leaving": "import sys\nsys.exit(0)",
    "leaving at once": "import os\nos._exit(0)",
    "leaving by raising": "raise SystemExit",
    "climbing through classes": "f = ().__class__.__base__.__subclasses__()",
    "climbing through a frame": "def f(x):\n    import sys\n    return sys._getframe(1).f_locals",
    "a traceback's frame": "def f(x):\n    try:\n        1 / 0\n    except ZeroDivisionError as e:\n"
    "        return e.__traceback__.tb_frame.f_back.f_globals",
    # the tests themselves
    "an object that equals anything": EQUAL + "def f(x):\n    return A()",
    "equality given later": "class A:\n    pass\nA.__eq__ = lambda self, other: True\ndef f(x):\n    return A()",
    "equality given in pieces": "class A:\n    pass\nsetattr(A, '_' + '_eq_' + '_', lambda self, other: True)\n"
    "def f(x):\n    return A()",
    "a class made at run time": "A = type('A', (), {'_' * 2 + 'eq__': lambda *others: True})\nf = lambda x: A()",
    "a number that equals anything": EQUAL.replace("A", "A(int)") + "def f(x):\n    return A(0)",
    "such objects in a list": EQUAL + "class L:\n    pass\ndef f(x):\n    return [A(), A()][0]",
    "another meaning for range": "def range(n):\n    return []\ndef f(x):\n    return 0",
    "another meaning for len": "len = lambda x: 3\nf = lambda x: 0",
    "no assertion fails": "AssertionError = None\nassert True\ndef f(x):\n    return 0",
    "finding the helpers": "for name in locals():\n    print(name)\ndef f(x):\n    return 0",
    "overwriting the helpers": "for name in list(locals()):\n    exec(name + ' = abs')\ndef f(x):\n    return 0",
    "the same in wide letters": "for name in list(ｌocals()):\n    ｅxec(name + ' = abs')\ndef f(x):\n    return 0",
    "overwriting the reward": "import grpo_teach.rewards.code as c\nc.code_reward = lambda *a: 1.0\nf = lambda x: 0",
    "the test's text": "def f(x):\n    import inspect\n    return inspect.stack()[1].code_context",
    "an open string": "def f(x):\n    return 0\n'''",
    "an open line": "def f(x):\n    return 0\nif True: \\",
    "an open block": "def f(x):\n    return 0\nwhile False:\n    pass\nelse:",
    "the answer to one test": "raise AssertionError('f(1) == 2')",
    # text that is no program
    "nothing": "",
    "half a surrogate": "x = '\ud800'",
    "a null byte": "def f(x):\n    return x\0 + 1",
    "prose": "The function adds one to x, so f(1) == 2 and f(5) == 6.",
    "a bomb of names": "\n".join(f"x{i} = {i}" for i in range(5000)),
    "too long a program": "# " + "x" * 100_000,
}
