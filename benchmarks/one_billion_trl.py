"""A step of GRPO here and in TRL's ``GRPOTrainer``, side by side: peak bytes and tokens a second."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable

import torch
from transformers import PrinterCallback, TrainerCallback

from grpo_teach.algorithms import ALGORITHMS
from grpo_teach.clinic.cost import allocated_bytes, rehearse
from grpo_teach.errors import InputError, needed
from grpo_teach.large import adamw8bit, free_memory, load_large, nf4, place
from grpo_teach.policy import save_policy
from grpo_teach.rewards import coin
from grpo_teach.tasks import Problem, Task


class FixedLength(Task):
    """Prompts of letters, all of one length, and a coin for a reward: the cost of a step, and no sense."""

    def __init__(self, tokens: int):
        self.tokens = tokens

    def draw(self, generator: torch.Generator) -> Problem:
        """``tokens`` letters, a byte each."""
        letters = torch.randint(ord("a"), ord("z") + 1, (self.tokens,), generator=generator)
        return Problem("".join(map(chr, letters.tolist())), "")

    def right(self, completion: str, problem: Problem) -> float:
        """Heads or tails."""
        return coin(completion, problem.answer)


class SecondStep(TrainerCallback):
    """Notes what the second step takes, as :func:`grpo_teach.clinic.cost.rehearse` does."""

    def on_step_begin(self, args, state, control, **_):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self.began = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        device = torch.device("cpu" if args.use_cpu else "cuda")
        if device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds, self.peak = time.perf_counter() - self.began, allocated_bytes(device)


def with_trl(folder: str, method: str, config, task: Task, tokenizer, dtype, device: str, rows_a_pass: int) -> dict:
    """Two steps of TRL at our settings, with the model that it loads from a folder; what the second took."""
    trl, peft, datasets = needed("trl"), needed("peft"), needed("datasets")
    rows, model = config.prompts * config.group_size, {"dtype": dtype, "device_map": {"": device}}
    if method == "qlora":
        model |= {"quantization_config": nf4(dtype)}
    problems = task.sample(2 * config.prompts, torch.Generator().manual_seed(0))
    arguments = trl.GRPOConfig(
        output_dir=f"{folder}/trl",
        model_init_kwargs=model,
        use_cpu=device == "cpu",
        max_steps=2,
        per_device_train_batch_size=rows_a_pass,
        gradient_accumulation_steps=rows // rows_a_pass,
        num_generations=config.group_size,
        max_completion_length=config.max_new_tokens,
        temperature=config.temperature,
        top_k=0,
        beta=0.0,
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=config.max_grad_norm,
        optim="adamw_bnb_8bit",
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        gradient_checkpointing=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1,
    )
    second = SecondStep()
    trainer = trl.GRPOTrainer(
        model=folder,
        reward_funcs=lambda completions, **_: [coin(text, "") for text in completions],
        args=arguments,
        train_dataset=datasets.Dataset.from_list([{"prompt": problem.prompt} for problem in problems]),
        processing_class=tokenizer,
        peft_config=peft.LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"),
        callbacks=[second],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    lengths = [row["completions/mean_length"] for row in trainer.state.log_history if "completions/mean_length" in row]
    found = {"peak_bytes": second.peak, "tokens_a_second": rows * lengths[1] / second.seconds}
    return found | dtypes(trainer.model)


def dtypes(policy) -> dict[str, str]:
    """Of what learns and of the arithmetic: TRL makes a 4-bit model's adapter bfloat16, where ours stays float32."""
    learns = {str(p.dtype).removeprefix("torch.") for p in policy.parameters() if p.requires_grad}
    return {"learns_in": " ".join(sorted(learns)), "computes_in": str(policy.dtype).removeprefix("torch.")}


def beside_trl(study, seed: int = 0, note: Callable[[dict], None] = lambda found: None) -> dict:
    """Peak bytes (None on a CPU) and tokens a second of the second step, here and in TRL, by ``"who method"``.

    Both load the same random weights from one folder, train an adapter of rank 16 with 8-bit AdamW, sample the same
    number of rows at once and go forward and back with the same number. Ids that stand for no byte, nearly all, make no
    EOS likely, so nearly every completion has full length.

    Args:
        study: a ``Study`` of ``one_billion.py``.
        seed: of weights and sampling.
        note: called with all rows so far after each: a later one may fail.
    Raises:
        InputError: if TRL is missing, the arithmetic would be float16, or the rows cannot be cut in passes of one
            size, which TRL needs.
    """
    needed("trl")
    if any(place(study.device, study.dtype, method)[1] == torch.float16 for method in study.methods):
        reason = "a 4-bit model's adapter becomes bfloat16 there, which its scaler refuses (huggingface/trl#4901)"
        raise InputError(f"beside TRL no float16: {reason}; take --dtype float32")
    config, task, found = study.settings("grpo"), FixedLength(study.prompt_tokens), {}
    if config.prompts * config.group_size % study.rows_a_pass:
        raise InputError(f"prompts * group_size must be a multiple of rows_a_pass, {study.rows_a_pass}, for TRL")
    with tempfile.TemporaryDirectory() as folder:
        save_policy(*load_large(study.model, "full", device="cpu", random_weights=True, seed=seed), folder)
        for method in study.methods:
            policy, tokenizer = study.load(folder, method, seed=seed)
            ours = policy, tokenizer, task, ALGORITHMS["grpo"], config, study.prompt_tokens, seed, adamw8bit
            cost = rehearse(*ours, reference=False)
            found[f"grpo_teach {method}"] = {
                "peak_bytes": cost.measured_bytes if policy.device.type == "cuda" else None,
                "tokens_a_second": cost.tokens_a_second,
                "predicted_bytes": cost.predicted_bytes,
            } | dtypes(policy)
            note(found)
            where = policy.dtype, policy.device.type, study.rows_a_pass
            del policy, ours
            free_memory()
            found[f"trl {method}"] = with_trl(folder, method, config, task, tokenizer, *where)
            note(found)
    return found
