"""Python that a model wrote, run where it can reach nothing.

The interpreter is pydantic-monty: a part of Python written anew in Rust, without files, sockets, processes, C modules
or frames to reach out through. It runs in worker processes: one that dies, by an attack on the interpreter itself,
takes nothing with it and is replaced.
"""

from __future__ import annotations

import atexit
import functools
import os
import threading
import time

from grpo_teach.errors import InputError, needed

__all__ = ["FAILED", "SECONDS", "run"]

FAILED = object()  # what a snippet gave that raised, or ran out of time, memory or depth
SECONDS = 0.5  # of one snippet, and of all of them until the last one may begin
LIMITS = {
    "max_feed_duration_secs": SECONDS,
    "max_total_sleep_secs": SECONDS / 2,
    "max_memory": 64 * 2**20,
    "max_recursion_depth": 200,
}


FIRST = threading.Lock()  # threads that ask for the first time together share one pool


@functools.cache
def _pool(process: int):
    """This process's workers."""
    if _pool.cache_info().currsize:  # the pool of the process that this one was forked from: its threads stayed there
        raise InputError("the sandbox was used before this process was forked: start processes by spawn")
    pool = needed("pydantic_monty").Monty(request_timeout=4 * SECONDS, max_checkouts_per_worker=1000)
    pool.__enter__()  # workers are started when they are first asked for, and end with the process
    atexit.register(lambda: pool.__exit__(None, None, None) if os.getpid() == process else None)
    return pool


def run(snippets: list[str]) -> list:
    """Run snippets of Python one after another in one new session of the sandbox; what they print is dropped.

    Args:
        snippets: Python, each able to use what those before it defined.
    Returns:
        For each the value of its last expression, or :data:`FAILED`. After one that ran out of time or memory, or
        killed its worker, and after ``SECONDS`` in all, every later one has failed. It takes ``2 * SECONDS`` at most,
        sleeping counted by half, beside the start of a worker.
    Raises:
        InputError: if pydantic-monty is not installed, or in a process that was forked after the sandbox had been used;
            nothing else, whatever the snippets.
    """
    with FIRST:
        pool, values = _pool(os.getpid()), []
    try:
        with pool.checkout(limits=LIMITS) as session:
            began = time.monotonic()
            for snippet in snippets:
                if time.monotonic() - began > SECONDS:
                    break
                try:
                    values.append(session.feed_run(snippet, print_callback=lambda stream, text: None))
                except Exception as error:
                    values.append(FAILED)
                    if "TimeoutError" in str(error) or "MemoryError" in str(error):
                        break  # stopped in the middle of something: what the session holds cannot be trusted
    except Exception:  # the worker died, with the snippet or between two
        pass
    return values + [FAILED] * (len(snippets) - len(values))
