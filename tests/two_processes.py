"""What ``tests/test_scale_run.py`` launches on two processes:

    accelerate launch --multi_gpu --num_processes 2 --max_restarts 1 tests/two_processes.py FOLDER

FOLDER holds two policies, and in ``batch.pt`` prompts, completions and rewards. TRL learns from that batch once for
each aggregation, each process from its half; then the course's run is made twice, ``alone`` and ``killed``. Each start
of a process leaves a line in ``starts``. A restarted process goes on with the last of these alone.
"""

import os
import sys
import time
from pathlib import Path

import torch
import trl
from datasets import Dataset

from grpo_teach import GRPO
from grpo_teach.policy import load_tokenizer
from grpo_teach.scale import trl_run
from grpo_teach.scale.export import to_trl

HOW = ("sequence_mean", "token_mean", "fixed_length")
STEPS = 8
RUN = ["--steps", str(STEPS), "--checkpoint-every", "1", "--prompts", "3", "--group-size", "2", "--addends", "2"]
RUN += ["--max-new-tokens", "6", "--learning-rate", "1e-3", "--problems", "4", "--quiet", "--seed", "5"]


def settings(how: str) -> GRPO:
    return GRPO(prompts=3, group_size=4, max_new_tokens=10, learning_rate=1e-3, aggregation=how)


def learn(folder: Path, how: str, process) -> None:
    """One batch learnt by TRL on all processes; the first one saves the weights."""
    batch = torch.load(folder / "batch.pt")
    half = len(batch["prompts"]) // process.num_processes
    mine = slice(process.process_index * half, (process.process_index + 1) * half)

    def hand_in(prompts, trainer):
        assert prompts == batch["prompts"][mine]
        return {"prompt_ids": batch["prompt_ids"][mine], "completion_ids": batch["ids"][mine], "logprobs": None}

    trainer = trl.GRPOTrainer(
        model=str(folder / "policy"),
        reward_funcs=lambda completions, **_: batch["rewards"][mine],
        args=trl.GRPOConfig(
            output_dir=str(folder / "trl"), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
            save_strategy="no", disable_tqdm=True, model_init_kwargs={"dtype": "auto"},
            **to_trl(settings(how), batches=1, processes=process.num_processes),
        ),
        train_dataset=Dataset.from_dict({"prompt": list(dict.fromkeys(batch["prompts"]))}),
        processing_class=load_tokenizer(folder / "policy"),
        rollout_func=hand_in,
    )  # fmt: skip
    trainer.train()
    if process.is_main_process:
        weights = {
            name: weight.detach() for name, weight in trainer.accelerator.unwrap_model(trainer.model).named_parameters()
        }
        torch.save(weights, folder / f"{how}.pt")


def main(folder: Path) -> int:
    restarts = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    if restarts and os.environ["RANK"] == "0":
        time.sleep(2)  # the other one is there first, and may take old news of this one for new
    process = trl_run.joined(cpu=True)
    with open(folder / "starts", "a") as file:
        file.write(f"{process.process_index} of {process.num_processes}, start {restarts}\n")
    if not restarts:
        for how in HOW:
            learn(folder, how, process)
        trl_run.main([*RUN, "--policy", str(folder / "small"), "--out", str(folder / "alone")])
    return trl_run.main([*RUN, "--policy", str(folder / "small"), "--out", str(folder / "killed")])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
