"""What a step costs on many GPUs: the arithmetic of chapter 14, to be fed with a measured step."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["on_gpus", "padding_share", "packed", "sync_seconds", "waiting_share"]


def on_gpus(sampling: float, learning: float, gpus: int, batches: int = 1) -> float:
    """Seconds of a synchronous step that takes ``sampling + learning`` on one GPU.

    ``seconds = sampling + learning * batches / gpus``. The longest answer comes token after token, however many GPUs
    there are, and one GPU's rows are sampled side by side; the update's rows can be shared out.

    Args:
        sampling, learning: seconds on one GPU for its batch.
        gpus: how many.
        batches: how many such batches make the step's batch, at most ``gpus``, each sampled on a GPU of its own.
    Raises:
        ValueError: if a GPU had to sample two batches.
    Source: Amdahl (1967); book Eq. (14.1).
    """
    if not 1 <= batches <= gpus:
        raise ValueError(f"a batch a GPU at most: batches={batches}, gpus={gpus}")
    return sampling + learning * batches / gpus


def waiting_share(lengths: Sequence[int]) -> float:
    """The share of sampling in which rows that have ended wait for the longest one.

    ``1 - mean(lengths) / max(lengths)``.

    Args:
        lengths: tokens of each row of a batch that is sampled together.
    Source: book Eq. (14.2).
    """
    return 1 - sum(lengths) / (len(lengths) * max(lengths))


def sync_seconds(parameters: float, gigabytes_a_second: float, bytes_each: int = 2) -> float:
    """Seconds that new weights take to the sampling engine, at the wire's speed and nothing else.

    ``seconds = parameters * bytes_each / (gigabytes_a_second * 1e9)``.

    Args:
        parameters: of the policy.
        gigabytes_a_second: of the connection, 10^9 bytes.
        bytes_each: 2 in 16 bits.
    Source: book Eq. (14.3).
    """
    return parameters * bytes_each / (gigabytes_a_second * 1e9)


def padding_share(lengths: Sequence[int], rows: int) -> float:
    """The share of a forward pass's columns that are padding, with ``rows`` rows a pass in the order given.

    ``1 - sum(lengths) / sum_passes(rows of the pass * longest of the pass)``.

    Args:
        lengths: tokens of each row, the prompt's included.
        rows: in one pass.
    Source: book Eq. (14.4).
    """
    passes = [lengths[i : i + rows] for i in range(0, len(lengths), rows)]
    return 1 - sum(lengths) / sum(len(part) * max(part) for part in passes)


def packed(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows in packs of at most ``capacity`` tokens: the longest first, each into the first pack with room.

    Args:
        lengths: tokens of each row.
        capacity: tokens of a pack.
    Returns:
        The rows' indices, a list a pack.
    Raises:
        ValueError: if a row is longer than a pack.
    Source: first-fit decreasing, Johnson (1973).
    """
    if max(lengths) > capacity:
        raise ValueError(f"a row of {max(lengths)} tokens fits in no pack of {capacity}")
    packs, room = [], []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        place = next((i for i, left in enumerate(room) if left >= lengths[row]), None)
        if place is None:
            place = len(packs)
            packs.append([])
            room.append(capacity)
        packs[place].append(row)
        room[place] -= lengths[row]
    return packs
