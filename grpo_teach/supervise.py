"""Plain supervised fine-tuning on texts that are given: pretraining, a cold start, another model's answers."""

from collections.abc import Callable
from pathlib import Path

import torch

from grpo_teach import records
from grpo_teach.algorithms import ALGORITHMS, SFT
from grpo_teach.errors import InputError
from grpo_teach.learner import Learner, adamw
from grpo_teach.policy import Models
from grpo_teach.rollout import from_text


def supervise(
    policy, tokenizer, draw: Callable[[float, torch.Generator], tuple[list[str], list[str]]], config: SFT | None = None,
    *, steps: int | None = None, tokens: int | None = None, seed: int = 0,
    schedule: Callable[[float], float] = lambda done: 1.0, optimizer: Callable = adamw,
    checkpoint: str | Path | None = None, checkpoint_every: int = 100, about: dict | None = None,
    name: str = "SFT", progress: bool = True,
) -> list[dict]:  # fmt: skip
    """Train a policy in place on drawn texts: Eq. (2.1) of the book with every row accepted.

    ``loss = -sum_bt mask[b, t] * logprobs[b, t] / sum_bt mask[b, t]``, over the completions' tokens, EOS included.

    Args:
        policy, tokenizer: as :func:`grpo_teach.load_base` returns them.
        draw: gives a batch's prompts and completions, from the share of the run that is done and a generator.
        config: SFT's settings; without them the defaults. Of ``prompts`` and ``group_size`` only the product counts:
            ``minibatches`` may not exceed it.
        steps, tokens: the run ends after so many batches, or when so many tokens are read, prompts' included.
        schedule: what the learning rate is multiplied by, given the share of the run that is done.
        seed: of the generator, and of torch's, numpy's and Python's random states.
        optimizer: makes one from the parameters and the learning rate.
        checkpoint: file to write, and to go on from if it is there; None writes nothing.
        checkpoint_every: batches between two checkpoints.
        about: what must be the same for a run to go on with.
        name: beside the bar.
        progress: show a bar with the loss.
    Returns:
        A row of metrics a batch: ``step``, ``loss``, ``grad_norm`` and ``tokens`` read so far.
    Raises:
        InputError: without an end, or if the checkpoint was made for another run.
        TrainingDiverged: if a loss or gradient is not finite.
    Source: DeepSeekMath (arXiv 2402.03300) Eq. (6).
    """
    if (steps is None) == (tokens is None):
        raise InputError("say when to stop: give steps or tokens, one of them")
    records.seed_everything(seed)
    config, generator = config or SFT(), torch.Generator().manual_seed(seed)
    learner, rows = Learner(Models(policy), ALGORITHMS["sft"], config, optimizer), []
    checkpoint = Path(checkpoint) if checkpoint else None
    if checkpoint and checkpoint.exists():
        state = records.load_checkpoint(checkpoint)
        if not {"generator", "random", "rows"} <= state.keys() or state.get("about") != about:
            raise InputError(f"{checkpoint} was made with other settings: choose another folder")
        learner.restore(state)
        generator.set_state(state["generator"])
        records.restore_random_states(state["random"])
        rows = state["rows"]
    unit, end = ("batch", steps) if tokens is None else ("token", tokens)

    def reached() -> int:
        return learner.step if unit == "batch" else rows[-1]["tokens"] if rows else 0

    with records.bar(name, unit, end, reached(), progress) as bar:
        while reached() < end:
            done = reached() / end
            for group in learner.optimizer.param_groups:
                group["lr"] = config.learning_rate * schedule(done)
            batch = from_text(tokenizer, *draw(done, generator), policy.device)
            row = learner.learn(batch, batch.mask.new_ones(len(batch), 1))
            read = (rows[-1]["tokens"] if rows else 0) + int(batch.prompt_mask.sum()) + batch.tokens
            rows.append({"step": learner.step - 1, "loss": row["loss"], "grad_norm": row["grad_norm"], "tokens": read})
            bar.set_postfix({"loss": f"{row['loss']:.3f}"}, refresh=False)
            bar.update(reached() - bar.n)
            if checkpoint and (learner.step % checkpoint_every == 0 or reached() >= end):
                more = {"rows": rows, "generator": generator.get_state(), "random": records.random_states()}
                records.save_checkpoint(checkpoint, learner.state() | more | {"about": about})
    policy.eval()
    return rows
