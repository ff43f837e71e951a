"""Going on with a record that a file holds, if it was made as it would be made now."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from grpo_teach import records
from grpo_teach.errors import InputError

__all__ = ["resumed"]


def resumed(path: Path | None, about: dict, runs, may_differ: Collection[str] = ()) -> tuple[dict, object]:
    """Manifest and runs of the record that a file holds, to be gone on with; the given ones if there is no file.

    Args:
        path: of the record; None for none.
        about: the manifest of what is asked now.
        runs: of a new record, empty.
        may_differ: keys of the manifest that need not be the same, beside the commit, which stays that of the
            first run.
    Raises:
        InputError: if the record was made with other settings or versions or on another device.
    """
    if not path or not path.exists():
        return about, runs
    held = json.loads(path.read_text(encoding="utf-8"))
    there, here = (records.in_todays_words(manifest) for manifest in (held["manifest"], json.loads(json.dumps(about))))
    fixed, settings = here.keys() - {"commit", "config", *may_differ}, here["config"].keys() | there["config"].keys()
    differing = sorted(key for key in fixed if there.get(key) != here[key])
    inner = sorted(key for key in settings if there["config"].get(key) != here["config"].get(key))
    differing += [f"config ({', '.join(inner)})"] if inner else []
    if differing:
        raise InputError(f"{path} was made with another {', '.join(differing)}: move it away to record anew")
    return about | {"commit": held["manifest"]["commit"]}, held["runs"]
