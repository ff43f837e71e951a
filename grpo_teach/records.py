"""Records of a run: its manifest, its metrics step by step, and its checkpoint, each written whole or not at all."""

import contextlib
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

import numpy
import torch
from tqdm import tqdm

from grpo_teach.errors import InputError, in_one_line
from grpo_teach.settings import SYNONYMS

RECORDED = Path(__file__).parent / "recorded"


def manifest(config: dict, seed: int) -> dict:
    """What someone needs to repeat a run: settings, seed, versions, commit (in a checkout), device, threads."""
    packages = ("grpo_teach", "torch", "transformers", "peft", "bitsandbytes", "numpy")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({_processor()})"
    return {
        "config": config,
        "seed": seed,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
        "commit": _commit(),
        "device": device,
        "threads": torch.get_num_threads(),
    }


def _version(package: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):  # run from a checkout that was not installed
        return metadata.version(package)


def _commit() -> str | None:
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):  # installed from a wheel, or no git
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def _processor() -> str:
    with contextlib.suppress(OSError, KeyError), open("/proc/cpuinfo") as file:  # not Linux, or it does not say
        said = dict(map(str.strip, row.split(":", 1)) for row in file if ":" in row)
        return f"{said['model name']}, family {said['cpu family']}, model {said['model']}"  # one name, many chips
    return platform.machine()


def output_folder(path: str | Path, resume: bool = True) -> Path:
    """The folder, made if it is missing.

    Raises:
        InputError: if it cannot be made or written to, or holds the checkpoint of a run that is not to be resumed.
    """
    path = Path(path)
    with in_one_line(f"cannot write to {path}"):
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    if not resume and (path / "checkpoint.pt").exists():
        raise InputError(f"{path} already holds a run: resume it, or choose another folder")
    return path


@contextlib.contextmanager
def replacing(folder: Path, name: str = ""):
    """A folder to fill. Its files then take their places in ``folder``; a kill or a full disk leaves the old ones.

    Raises:
        InputError: if they cannot be written.
    """
    new = output_folder(folder) / f"{name}.part"
    with in_one_line(f"cannot write to {folder / name}"):
        try:
            shutil.rmtree(new, ignore_errors=True)  # what a kill has left
            new.mkdir()
            yield new
            for file in sorted(path for path in new.rglob("*") if path.is_file()):
                place = folder / file.relative_to(new)
                place.parent.mkdir(exist_ok=True)
                os.replace(file, place)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def _replace(path: Path, write) -> None:
    """Write a file beside the old one, flush it to the disk, and let it take that one's place."""
    with replacing(path.parent, path.name) as new, open(new / path.name, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: dict, indent: int | None = 1) -> None:
    """Write JSON atomically; without an indent it takes a third of the bytes."""
    _replace(path, lambda file: file.write((json.dumps(value, indent=indent) + "\n").encode()))


def seed_everything(seed: int) -> None:
    """Seed every generator whose state :func:`random_states` notes."""
    torch.manual_seed(seed)  # CUDA's too
    random.seed(seed)
    numpy.random.seed(seed % 2**32)


def random_states() -> dict:
    """The state of every generator a run may draw from."""
    numpy_state = numpy.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": [numpy_state[0], torch.from_numpy(numpy_state[1].astype("int64")), *numpy_state[2:]],
    }


def restore_random_states(states: dict) -> None:
    """Put back what :func:`random_states` noted."""
    torch.set_rng_state(states["torch"])
    for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):  # there may be fewer now
        torch.cuda.set_rng_state(state, device)
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    numpy.random.set_state((name, keys.numpy().astype("uint32"), *rest))


def save_checkpoint(path: Path, state: dict) -> None:
    """Write a checkpoint atomically."""
    _replace(path, lambda file: torch.save(state, file))


def load_checkpoint(path: Path) -> dict:
    """Read a checkpoint. Only tensors and plain values are accepted, so a stranger's file can run no code.

    Raises:
        InputError: if it is missing, cut short or not a checkpoint.
    """
    with in_one_line(f"cannot read the checkpoint {path}"):
        if not zipfile.is_zipfile(path):
            raise ValueError("it is missing, cut short or not a checkpoint")
        with zipfile.ZipFile(path) as archive:  # torch itself does not compare the checksums
            if archive.testzip():
                raise ValueError("some of its bytes have changed since it was written")
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=os.name != "nt")
        if not isinstance(state, dict) or "step" not in state:
            raise ValueError("it holds no training state")
        return state


def load_record(name: str) -> dict:
    """A recorded result that ships with the package, with its manifest."""
    return json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))


def in_todays_words(config):
    """A recorded configuration with the critic's kinds as they are called now."""
    if isinstance(config, dict):
        return {k: SYNONYMS.get(v, v) if k == "critic" else in_todays_words(v) for k, v in config.items()}
    return config


def bar(name: str, unit: str, total: int | None, done: int = 0, progress: bool = True) -> tqdm:
    """A progress bar; where output is no terminal and no notebook, a line every half minute at the most."""
    notebook = "IPython" in sys.modules and sys.modules["IPython"].get_ipython()
    seconds = 0.1 if sys.stderr.isatty() or notebook else 30.0
    often = {"mininterval": seconds, "maxinterval": max(10.0, seconds), "unit_scale": unit == "token"}
    return tqdm(desc=name, unit=f" {unit}", total=total, initial=done, disable=not progress, **often)


class MetricsLog:
    """Rows to ``metrics.jsonl``, one a step.

    Args:
        folder: where to write.
        history: the rows of the steps so far. The file may hold later ones, of a run that was killed after its last
            checkpoint: they are dropped, and will be written again.
    """

    def __init__(self, folder: Path, history: list[dict]):
        self.path = folder / "metrics.jsonl"
        _replace(self.path, lambda file: file.writelines((json.dumps(row) + "\n").encode() for row in history))

    def write(self, row: dict) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def short(value, digits: int = 5):
    """A number as a record keeps it: so many digits of a float, anything else as it is."""
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value
