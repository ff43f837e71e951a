"""The byte ledger's other half: run the set-up it predicts, and see how many bytes were alive.

Random weights of the shape, then two steps with the course's own sampler, scorer and algorithm file at the set-up's
exact sizes: gradients and moments are there from the first update on, so the second step is the one to look at.
"""

from __future__ import annotations

import copy
import multiprocessing
import re
import sys
import time
import weakref
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
import transformers
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grpo_teach.algorithms import ALGORITHMS
from grpo_teach.errors import InputError
from grpo_teach.large import OPTIMIZERS, load_large
from grpo_teach.learner import Learner
from grpo_teach.memory.setup import Setup, symbols
from grpo_teach.policy import Models
from grpo_teach.rollout import Rollouts, sample_ids
from grpo_teach.train import kl_to_reference

__all__ = ["INSTRUMENTS", "Live", "held", "measure", "measure_apart"]

INSTRUMENTS = {
    "cpu": "bytes of the tensors that operators return, while they live",
    "cuda": "torch.cuda.max_memory_allocated",
}


class Live(TorchDispatchMode):
    """Counts the bytes of the storages that operators return, as long as each lives: an honest peak without a GPU.

    It cannot see what an operator makes and drops inside itself, such as the scratch of a matrix product; peak
    resident memory is the instrument for that. One such copy is known and counted: the exponentials in logsumexp.

    Args:
        known: tensors that are there already, and are not to be counted.
    """

    def __init__(self, known=()):
        super().__init__()
        self.alive, self.now, self.most = {tensor.untyped_storage()._cdata for tensor in known}, 0, 0

    def forget(self, key: int, size: int) -> None:
        self.alive.discard(key)
        self.now -= size

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.most = max(self.most, self.now)
        returned = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(returned):
            if not isinstance(tensor, torch.Tensor) or tensor.device.type == "meta":
                continue
            if (storage := tensor.untyped_storage())._cdata not in self.alive:
                self.alive.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self.forget, storage._cdata, storage.nbytes())
        if operation is torch.ops.aten.logsumexp.default:
            self.most = max(self.most, self.now + args[0].nbytes)
        # Autograd adds a gradient to one that is no view in place, but under a mode in a new tensor: such a sum counts
        # from the next operation on, when what it was added to is gone.
        backward = torch._C._current_graph_task_id() != -1 and not torch.is_grad_enabled()
        if not (backward and operation is torch.ops.aten.add.Tensor and not args[0]._is_view()):
            self.most = max(self.most, self.now)
        return returned

    def take(self) -> int:
        """The most bytes since the last time, and begin anew."""
        most, self.most = max(self.most, self.now), self.now
        return most


class Allocator:
    """The same of torch's CUDA allocator, under a cap in bytes, as if the card had no more."""

    def __init__(self, cap: int | None):
        total = torch.cuda.get_device_properties(0).total_memory
        if cap and cap > total:
            raise InputError(f"the cap of {cap:,} bytes is above the card's {total:,}")
        torch.cuda.set_per_process_memory_fraction(cap / total if cap else 1.0)

    def __enter__(self):
        torch.cuda.reset_peak_memory_stats()

    def __exit__(self, *error):
        torch.cuda.set_per_process_memory_fraction(1.0)

    def take(self) -> int:
        most = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return most


class Meter:
    """The most bytes of each phase. ``phase`` is the one that runs."""

    def __init__(self, instrument, progress: bool = False):
        self.instrument, self.progress, self.phase, self.most = instrument, progress, "loading", {}

    def enter(self, phase: str) -> None:
        """End the phase that runs, and begin another."""
        if phase != self.phase:
            self.most[self.phase] = max(self.most.get(self.phase, 0), self.instrument.take())
            self.phase = phase
            if self.progress:
                print(f"measuring: {phase}", file=sys.stderr, flush=True)


class RewardModel(nn.Module):
    """A frozen trunk with a head: one score a row, read from its last token."""

    def __init__(self, config, dtype: torch.dtype, device: torch.device):
        super().__init__()
        with torch.device(device):
            self.trunk = transformers.AutoModel.from_config(config, dtype=dtype, attn_implementation="sdpa")
            self.head = nn.Linear(config.hidden_size, 1, dtype=dtype)
        self.requires_grad_(False).eval()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(ids, use_cache=False).last_hidden_state[:, -1]).squeeze(-1)


def storages(tensors) -> int:
    """Bytes of the distinct storages under some tensors."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def held(*modules: nn.Module | None) -> int:
    """Bytes of the distinct storages of some modules, 4-bit weights' scales and tables included."""
    tensors = []
    for module in filter(None, modules):
        states = [part.weight.quant_state for part in module.modules() if hasattr(part, "quant_state")]
        tensors += [*module.parameters(), *module.buffers()]
        tensors += [t for s in states for t in (s.absmax, s.code, s.offset, s.state2.absmax, s.state2.code)]
    return storages(tensors)


def resident() -> tuple[int, int] | None:
    """Bytes of the process that are in memory now, and at most so far; None where the system does not say.

    Not ``getrusage``: the peak it gives to a new process begins at the size of the process that started it.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    return tuple(1024 * int(re.search(rf"{key}:\s+(\d+)", status.read_text())[1]) for key in ("VmRSS", "VmHWM"))


def built(config, setup: Setup, device: str) -> tuple[Models, nn.Module | None]:
    """The models of a set-up with random weights, those too that the loop itself never makes."""
    options = {"rank": setup.rank, "rows_a_pass": setup.rows_a_pass, "chunk": setup.chunk}
    options |= {"checkpointing": setup.checkpointing, "random_weights": True}
    policy, _ = load_large(config, setup.method, setup.dtype, device, **options)
    embeddings = policy.get_input_embeddings()
    if embeddings.padding_idx is not None:  # random weights have zeros there, through which gradients would overflow
        nn.init.normal_(embeddings.weight.data[embeddings.padding_idx], std=config.initializer_range)
    critic = None if setup.critic == "none" else setup.critic
    models = Models.build(policy, critic, setup.reference != "none")
    if setup.reference == "copy" and setup.method != "full":  # beside an adapter the loop would share the weights
        models.reference = copy.deepcopy(models.reference)
    reward_model = RewardModel(config, policy.dtype, policy.device) if setup.reward_model == "same" else None
    return models, reward_model


def prompts(setup: Setup, device: torch.device, rows: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """``(prompt_ids, prompt_mask)``, [P, S] or [rows, S]: if padded by a column, so that every pass has a mask."""
    ids = torch.arange(1, (rows or setup.prompts) + 1, device=device).unsqueeze(1).repeat(1, setup.prompt_tokens)
    mask = torch.ones_like(ids)
    if setup.padded and setup.prompt_tokens > 1:
        ids[:, 0] = mask[:, 0] = 0
    return ids, mask


def rewarded(setup: Setup, rollouts: Rollouts, reward_model: nn.Module | None) -> torch.Tensor:
    """[P, G] rewards that leave no row out, after a reward model has read every row, if there is one."""
    if reward_model:
        padding = int(setup.padded and setup.prompt_tokens > 1)
        ids = torch.cat([rollouts.prompt_ids[:, padding:], rollouts.completion_ids], dim=1)
        with torch.no_grad():
            for rows in ids.split(setup.rows_a_pass):
                reward_model(rows)
    right = torch.ones(setup.prompts, setup.group_size, device=rollouts.mask.device)
    if setup.algorithm != "sft":  # which learns from right answers alone; the others from both kinds
        right.view(-1)[::2] = 0
    return right


def run(config, setup: Setup, device: str, meter: Meter) -> dict:
    """Two steps; returns the bytes of what stays, and how long the second took."""
    algorithm, sizes = ALGORITHMS[setup.algorithm], ("prompts", "group_size", "max_new_tokens")
    settings = {name: getattr(setup, name) for name in sizes}
    if setup.algorithm == "ppo":
        settings |= {"critic": setup.critic, "kl_coefficient": 0.02 * (setup.reference != "none")}
    if setup.algorithm == "grpo":
        settings |= {"beta": 0.04 * (setup.reference != "none")}
    models, reward_model = built(config, setup, device)
    learner = Learner(models, algorithm, algorithm.Settings(**settings), OPTIMIZERS[setup.optimizer])
    learner.scaler = torch.amp.GradScaler(models.policy.device.type, enabled=False)  # it might skip a step

    def note(module, arguments):
        if torch.is_grad_enabled() and meter.phase == "scoring":
            meter.enter("update")

    models.policy.get_decoder().register_forward_pre_hook(note)
    evaluation = symbols(setup).get("E")
    for _ in range(2):
        if evaluation:
            meter.enter("evaluation")
            asked = prompts(setup, models.policy.device, evaluation[1])
            sample_ids(models.policy, *asked, 1, setup.max_new_tokens, 1.0, ends=[], pad=0)
        started = time.perf_counter()
        meter.enter("sampling")
        asked = prompts(setup, models.policy.device)
        rollouts = sample_ids(models.policy, *asked, setup.group_size, setup.max_new_tokens, 1.0, ends=[], pad=0)
        meter.enter("scoring")
        rewards = rewarded(setup, rollouts, reward_model)
        kl_to_reference(models.reference, rollouts, 1.0)  # as the loop does, to show it
        learner.learn(rollouts, rewards)
        seconds = time.perf_counter() - started
    meter.enter("end")
    stays = {
        "weights": held(models.policy),
        "critic": held(models.policy, models.critic) - held(models.policy),
        "reference": held(models.policy, models.reference) - held(models.policy),
        "reward_model": held(reward_model),
        "gradients": storages(weight.grad for weight in models.trainable().parameters() if weight.grad is not None),
        "optimizer": storages(t for t in tree_leaves(list(learner.optimizer.state.values())) if torch.is_tensor(t)),
    }
    return {"bytes": stays, "seconds": seconds, "tokens": rollouts.tokens}


def measure(config, setup: Setup, device: str = "auto", cap: int | None = None, progress: bool = False) -> dict:
    """Train with a set-up and note the most bytes that were alive.

    Args:
        config: of the model whose shape is ``setup.model``.
        setup: as :func:`grpo_teach.memory.ledger.predict` takes it.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``: a GPU if there is one.
        cap: bytes the allocator may take, on a GPU.
        progress: say on standard error which phase runs.
    Returns:
        ``bytes``: of each term that can be told apart, and ``total``, the peak. ``phases``: the peak of each.
        ``instrument``: what was asked. ``seconds`` of the last step, and the ``tokens_a_second`` sampled in it.
        ``resident_bytes``: on a CPU, the most memory of the process less what it had before, None if not known.
        ``reserved_bytes``: on a GPU, the most the allocator took.
        Where memory ran out: ``out_of_memory``, the phase, and nothing of the above but the instrument.
    Raises:
        InputError: for a cap on a CPU or above the card's memory, or what :func:`load_large` refuses.
    """
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no GPU that torch can use: measure on the device cpu")
    if device == "cpu" and cap:
        raise InputError("a cap is the GPU allocator's: leave it out on the device cpu")
    before, instrument = resident(), Allocator(cap) if device == "cuda" else Live()
    meter, found = Meter(instrument, progress), {"instrument": INSTRUMENTS[device]}
    with instrument:
        try:
            measured = run(config, setup, device, meter)
        except torch.cuda.OutOfMemoryError:
            return found | {"out_of_memory": meter.phase}
    phases = {name: most for name, most in meter.most.items() if name != "loading"}
    found |= {"bytes": measured["bytes"] | {"total": max(phases.values())}, "phases": phases}
    found |= {"seconds": measured["seconds"], "tokens_a_second": measured["tokens"] / measured["seconds"]}
    if device == "cuda":
        return found | {"reserved_bytes": torch.cuda.max_memory_reserved()}
    return found | {"resident_bytes": resident()[1] - before[0] if before else None}


def measure_apart(*args, **kwargs) -> dict:
    """:func:`measure` in a process of its own, so that nothing that came before is counted.

    Raises:
        InputError: also if the system ended that process, for want of memory.
    """
    # A server that has made the imports, where there is one, and forks a fresh process for each measurement.
    # Not beside a GPU: bitsandbytes asks it its kind on import, and a process that was forked after that cannot use it.
    served = "forkserver" in multiprocessing.get_all_start_methods() and not torch.cuda.is_available()
    context = multiprocessing.get_context("forkserver" if served else "spawn")
    if served:
        context.set_forkserver_preload([__name__, "peft", "bitsandbytes"])  # these two if they are there
    with ProcessPoolExecutor(1, context) as pool:
        try:
            return pool.submit(measure, *args, **kwargs).result()
        except BrokenProcessPool as error:
            raise InputError("the system ended the measurement: its memory ran out") from error
