"""A cold start and what follows it by command, and what the command line lets a reader say to the model."""

import json
import time

import pytest
import torch
from chat import TEMPLATE, chat_tokenizer

from grpo_teach import InputError
from grpo_teach.__main__ import INTERRUPTED, main
from grpo_teach.commands import training
from grpo_teach.large import load_large
from grpo_teach.policy import save_policy, tiny_policy
from grpo_teach.tasks import WordProblems
from grpo_teach.tasks.word_problems import SYSTEM, load

SMALL = ["--prompts", "2", "--group-size", "2", "--max-new-tokens", "4", "--steps", "2"]
ASKED = ["--task", "gsm8k", "--data", "sample", "--problems", "4", "--quiet"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a model of Llama's build that reads bytes, and has a chat template."""
    folder, tokenizer = tmp_path_factory.mktemp("model"), chat_tokenizer()
    torch.manual_seed(0)
    save_policy(tiny_policy(tokenizer, hidden_size=32, layers=2, heads=2, intermediate_size=32), tokenizer, folder)
    return folder


def last(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


# A cold start, then reinforcement learning on the same adapter ----------------------------------------------------


def test_a_cold_start_lowers_the_loss_and_its_adapter_is_trained_on(model, tmp_path, capsys, monkeypatch):
    large = ["--method", "lora", "--dtype", "float32", "--device", "cpu"]
    cold = ["supervise", *ASKED, "--model", str(model), *large, "--max-new-tokens", "4", "--json"]
    losses = {}
    for steps in ("1", "25"):
        assert main([*cold, "--steps", steps, "--learning-rate", "0.03", "--out", str(tmp_path / steps)]) == 0
        found = last(capsys)
        losses[steps] = found["loss"]
        assert found["before"]["problems"] == found["after"]["problems"] == 4
    assert losses["25"] < 0.99 * losses["1"]
    record = json.loads((tmp_path / "25" / "supervise.json").read_text())
    assert record["manifest"]["config"]["steps"] == 25 and record["after"]["accuracy"] == found["after"]["accuracy"]

    started = load_large(tmp_path / "25" / "policy", "lora", "float32", "cpu")[0]
    train = ["train", *ASKED, "--model", str(tmp_path / "25" / "policy"), *large, *SMALL, "--grade", "coin"]
    assert main([*train, "--learning-rate", "0.001", "--out", str(tmp_path / "run"), "--json"]) == 0
    assert last(capsys)["before"]["problems"] == 4
    ended = load_large(tmp_path / "run" / "policy", "lora", "float32", "cpu")[0]
    moved = {n: not torch.equal(p, dict(ended.named_parameters())[n]) for n, p in started.named_parameters()}
    assert all(moved[name] == ("lora_" in name) for name in moved)


def test_a_second_cold_start_never_overwrites_the_first(model, tmp_path, capsys):
    asked = ["supervise", *ASKED, "--policy", str(model), "--steps", "1", "--problems", "0", "--out", str(tmp_path)]
    assert main(asked) == 0
    assert main(asked) == 2
    assert "already holds a policy" in capsys.readouterr().err


COLD = ["supervise", "--steps", "5", "--batch", "4", "--problems", "8", "--max-new-tokens", "4", "--quiet"]
COLD += ["--checkpoint-every", "2"]


@pytest.mark.parametrize("moment", ["worked_solutions", "evaluate"])
def test_a_cold_start_that_is_interrupted_goes_on_and_ends_the_same(tmp_path, capsys, monkeypatch, moment):
    inner, calls = getattr(training, moment), []

    def at(call, made):
        """What was made, unless it is that call."""
        calls.append(call)
        if len(calls) == call:
            raise KeyboardInterrupt
        return made

    spoiled = {
        "worked_solutions": lambda *asked: lambda *given: at(4, inner(*asked)(*given)),  # the fourth batch
        "evaluate": lambda *asked, **how: at(2, inner(*asked, **how)),  # after the training
    }
    cut = [*COLD, "--out", str(tmp_path / "cut")]
    with monkeypatch.context() as patch:
        patch.setattr(training, moment, spoiled[moment])
        assert main(cut) == INTERRUPTED
    assert "--resume" in capsys.readouterr().err and not (tmp_path / "cut" / "supervise.json").exists()
    assert main(cut) == 2 and "already holds a run: resume it" in capsys.readouterr().err
    assert main([*cut, "--resume", "--learning-rate", "1"]) == 2 and "other settings" in capsys.readouterr().err
    assert main([*cut, "--resume"]) == 0 == main([*COLD, "--out", str(tmp_path / "whole")])
    for name in ("supervise.json", "policy/model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "cut" / "checkpoint.pt").exists()
    for again in (cut, [*cut, "--resume"]):  # it has ended
        assert main(again) == 2 and "already holds a policy" in capsys.readouterr().err


def test_the_toy_has_a_cold_start_too(tmp_path, capsys):
    asked = ["supervise", "--steps", "30", "--batch", "64", "--problems", "256", "--quiet", "--json"]
    assert main([*asked, "--out", str(tmp_path)]) == 0
    found = last(capsys)
    assert found["after"]["thinks"] > 0.9 > 0.5 > found["before"]["thinks"]
    assert found["after"]["interval"][0] > found["before"]["interval"][1]


# What is said to the model, and what pays it -----------------------------------------------------------------------


def test_system_prompt_and_template_options_reach_the_prompt(model, tmp_path):
    template = TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %}[fast]{% endif %}"
    tokenizer = chat_tokenizer(template=template)
    save_policy(tiny_policy(tokenizer, 16, 1, 2, intermediate_size=16), tokenizer, tmp_path / "model")
    plain = WordProblems(tokenizer, "sample").test_set(1)[0].prompt
    told = WordProblems(tokenizer, "sample", system="Add.", template={"enable_thinking": False}).test_set(1)[0].prompt
    assert told == plain.replace(SYSTEM, "Add.") + "[fast]"
    assert "system" not in WordProblems(tokenizer, "sample", system="").test_set(1)[0].prompt
    with pytest.raises(InputError, match="no text, with tokenize"):
        WordProblems(tokenizer, "sample", template={"tokenize": True})
    for flags, task in (
        (
            ["--system", "Add.", "--template", "enable_thinking=false"],
            {"system": "Add.", "template": {"enable_thinking": False}},
        ),
        ([], {}),
    ):
        out = tmp_path / str(len(flags))
        asked = ["train", *ASKED, *SMALL, "--policy", str(tmp_path / "model"), "--evaluate-every", "0", *flags]
        assert main([*asked, "--problems", "0", "--out", str(out)]) == 0
        assert json.loads((out / "manifest.json").read_text())["config"]["task"] == repr(
            WordProblems(tokenizer, "sample", **task)
        )


def test_a_template_that_asks_for_the_day_gives_the_same_task_tomorrow(monkeypatch):
    tokenizer = chat_tokenizer(template="Today is {{ strftime_now('%d %b %Y') }}. " + TEMPLATE)
    today = WordProblems(tokenizer, "sample")
    assert today.test_set(1)[0].prompt.startswith("Today is 26 Jul 2024. ")
    assert time.strftime("%d %b %Y") not in today.test_set(1)[0].prompt


PAYS = """
from __future__ import annotations
from dataclasses import dataclass
import torch
@dataclass
class Weights:
    length: float = 1.0
def length(completions, problems):
    return torch.tensor([float(len(text)) for text in completions]).reshape(len(problems), -1)
not_a_function = 3
"""


def test_a_reward_of_ones_own_pays_and_its_name_stands_in_the_manifest(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(PAYS)
    asked = ["train", *SMALL, "--evaluate-every", "0", "--problems", "0", "--quiet", "--out", str(tmp_path / "run")]
    assert main([*asked, "--reward", f"{tmp_path / 'mine.py'}:length"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(row["reward"] for row in rows) >= 1 and {row["reward"] for row in rows} != {0.0}
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["config"]["reward"] == "length"
    (tmp_path / "ends.py").write_text("raise SystemExit(0)")
    for wrong, word in ((f"{tmp_path / 'mine.py'}:missing", "missing"), ("no_such_module:f", "no_such_module"),
                        (f"{tmp_path / 'ends.py'}:f", "ends.py"),
                        (f"{tmp_path / 'mine.py'}:not_a_function", "no function"), ("mine", "mine")):  # fmt: skip
        capsys.readouterr()
        assert main([*asked[:-1], str(tmp_path / "other"), "--reward", wrong]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and word in said


@pytest.mark.parametrize("flags, word", [
    (["--system", "x"], "--system"), (["--template", "a=1"], "--template"),
    (["--task", "gsm8k", "--template", "thinking"], "NAME=VALUE"), (["--template", "=1"], "NAME=VALUE"),
    (["--alpha", "4"], "--alpha"),
    (["--max-hours", "-1"], "max_hours"), (["--schedule", "steep"], "steep"), (["--warmup", "-1"], "warmup"),
])  # fmt: skip
def test_bad_input_is_one_line(flags, word, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["train", *flags])
    except SystemExit as stopped:
        code = stopped.code
    said = capsys.readouterr().err.strip()
    assert code == 2 and word in said and len(said.splitlines()) == 1


# Adapters of other sizes ------------------------------------------------------------------------------------------


def test_alpha_and_targets_make_the_adapter_that_is_asked_for(model):
    for alpha, scale in ((0, 2.0), (4, 0.5), (24, 3.0)):
        policy, _ = load_large(model, "lora", "float32", "cpu", rank=8, alpha=alpha)
        scales = {
            part.scaling["default"] for part in policy.modules() if isinstance(getattr(part, "scaling", None), dict)
        }
        assert scales == {scale}
    policy, _ = load_large(model, "lora", "float32", "cpu", targets=("q_proj", "v_proj"))
    assert {name.split(".")[-4] for name, p in policy.named_parameters() if p.requires_grad} == {"q_proj", "v_proj"}


@pytest.mark.parametrize("target", ["no_such_layer", "lm_head"])  # the second is read without its adapter
def test_a_target_that_cannot_be_one_is_one_line(target, model, capsys, tmp_path):
    asked = [
        "train",
        *ASKED,
        *SMALL,
        "--model",
        str(model),
        "--method",
        "lora",
        "--dtype",
        "float32",
        "--device",
        "cpu",
    ]
    assert main([*asked, "--targets", target, "--out", str(tmp_path)]) == 2
    assert {"lm_head": "output matrix"}.get(target, target) in capsys.readouterr().err.splitlines()[-1]


# GSM8K's own files ------------------------------------------------------------------------------------------------


def test_gsm8k_is_read_from_the_folder_that_the_environment_names(monkeypatch, tmp_path):
    for split, n in (("train", 3), ("test", 2)):
        rows = [{"question": f"{split} {i}?", "answer": f"so\n#### {i}"} for i in range(n)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setenv("GSM8K", str(tmp_path))
    assert {split: len(rows) for split, rows in load("gsm8k").items()} == {"train": 3, "test": 2}


def test_defaults_suit_the_size_of_the_policy(model, tmp_path, capsys, monkeypatch):
    held = {}
    for name, start in (("large", ["--model", str(model), "--method", "lora", "--dtype", "float32", "--device", "cpu"]),
                        ("small", ["--policy", str(model)])):  # fmt: skip
        asked = ["train", *ASKED, "--problems", "0", "--evaluate-every", "0", "--steps", "1", "--max-new-tokens", "2"]
        assert main([*asked, *start, "--grade", "coin", "--out", str(tmp_path / name)]) == 0
        held[name] = json.loads((tmp_path / name / "manifest.json").read_text())["config"]
    sizes = {name: [config[k] for k in ("prompts", "group_size", "learning_rate")] for name, config in held.items()}
    assert sizes == {"large": [4, 8, 1e-5], "small": [16, 16, 5e-4]}
