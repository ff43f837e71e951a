"""Where models may be written: what is trained or merged never takes the place of a model that somebody has."""

from __future__ import annotations

from pathlib import Path

from grpo_teach.errors import InputError
from grpo_teach.records import output_folder

__all__ = ["free_folder"]

MODEL = ("config.json", "adapter_config.json", "*.safetensors")


def free_folder(out: str | Path, read: str | Path | None = None, resume: bool = False) -> Path:
    """The folder of a run or of a merged model, made if it is missing.

    Args:
        out: the folder.
        read: the model that the run starts from or the adapter that is merged, if it may be a folder.
        resume: may it hold the checkpoint of a run, to go on with?
    Raises:
        InputError: if it is itself a model's, holds a policy without a checkpoint to go on from, holds ``read``, is
            another run's or cannot be written to.
    """
    out = Path(out)
    if held := [path.name for pattern in MODEL for path in out.glob(pattern)]:
        raise InputError(f"{out} holds a model ({held[0]}): choose another folder")
    if (out / "policy").exists() and not (out / "checkpoint.pt").exists():
        raise InputError(f"{out} already holds a policy: choose another folder")
    if read is not None and Path(read).exists() and Path(read).resolve().is_relative_to(out.resolve()):
        raise InputError(f"{read} lies in {out}, and must not be written over: choose another folder")
    return output_folder(out, resume)
