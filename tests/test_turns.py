"""Where a row ends, what the sampler asks of a model's cache, and the mask on older cards."""

import warnings

import pytest
import torch
from chat import TEMPLATE, chat_tokenizer
from conftest import small_policy
from torch import nn
from transformers import AutoModelForCausalLM, Lfm2Config, Qwen3_5TextConfig

from grpo_teach import ALGORITHMS, TrainingDiverged, evaluate, from_text, sample, score, train
from grpo_teach.__main__ import DIVERGED, main
from grpo_teach.clinic.preflight import preflight
from grpo_teach.policy import save_policy
from grpo_teach.rollout import ends, turn_end
from grpo_teach.tasks import ChainSum

END, HEAD, BEGIN = 2, 3, 1  # the ids of tests/chat.py's special tokens


class Scripted(nn.Module):
    """Says one fixed text, token after token, to whatever prompt."""

    def __init__(self, ids, vocabulary, eos=None):
        super().__init__()
        self.ids, self.vocabulary, self.device = ids, vocabulary, torch.device("cpu")
        self.generation_config = type("Config", (), {"eos_token_id": eos})()
        self.said = 0

    def forward(self, input_ids, past_key_values=None, **_):
        logits = torch.full((len(input_ids), 1, self.vocabulary), -30.0)
        logits[:, 0, self.ids[self.said]] = 30.0
        self.said += 1
        return type("Output", (), {"logits": logits, "past_key_values": past_key_values})()


# The end of a turn ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eos", [None, HEAD, [HEAD], [HEAD, BEGIN]], ids=str)
def test_a_row_ends_with_every_token_that_model_tokenizer_or_template_names(eos):
    tokenizer = chat_tokenizer()
    tokenizer.eos_token = "<|begin|>"  # as Qwen's base models: their EOS is not what ends a turn
    named = set([eos] if isinstance(eos, int) else eos or [])
    assert set(ends(Scripted([], 300, eos), tokenizer)) == {BEGIN, END} | named
    for last in {BEGIN, END} | named:
        rollouts = sample(Scripted([50, 60, last, 70, 80], len(tokenizer), eos), tokenizer, ["1"], 1, 5)
        assert rollouts.lengths.tolist() == [3] and rollouts.completion_ids[0, 2] == last
    if HEAD not in named:  # a special token alone ends nothing
        assert sample(Scripted([50, HEAD, 60, 70], len(tokenizer), eos), tokenizer, ["1"], 1, 4).lengths.tolist() == [4]


def test_a_demonstration_ends_as_the_chat_template_ends_a_turn():
    tokenizer = chat_tokenizer()
    tokenizer.eos_token = "<|begin|>"
    assert turn_end(tokenizer) == END
    assert from_text(tokenizer, ["a"], ["b"]).completion_ids[0, -1] == END
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"  # nothing behind a turn
    assert turn_end(tokenizer) == tokenizer.eos_token_id
    tokenizer.chat_template = "<|head|>{% for m in messages %}{{ m.role }}<|end|>{% endfor %}"  # drops what was said
    assert turn_end(tokenizer) == tokenizer.eos_token_id
    tokenizer.chat_template = "{{ raise_exception('no assistant here') }}"
    assert turn_end(tokenizer) == tokenizer.eos_token_id
    tokenizer.chat_template = None
    assert turn_end(tokenizer) == tokenizer.eos_token_id


def test_what_stands_between_an_answer_and_its_end_is_no_end():
    tokenizer = chat_tokenizer(template=TEMPLATE.replace("<|end|>", "\n<|end|>"))
    assert turn_end(tokenizer) == END


def test_the_pre_flight_counts_as_cut_off_only_what_no_end_ended(policy, tokenizer):
    digit = tokenizer("7")["input_ids"][0]
    with torch.no_grad():  # it says 7 and nothing else
        policy.model.norm.weight.zero_()
        policy.model.norm.weight[0] = 1.0
        policy.lm_head.weight = nn.Parameter(torch.zeros_like(policy.lm_head.weight))
        policy.lm_head.weight[digit] = 0.0
    policy.generation_config.eos_token_id = None
    config = ALGORITHMS["grpo"].Settings(prompts=2, group_size=2, max_new_tokens=3)
    asked = {"problems": 16, "samples": 8}
    cut = preflight(policy, tokenizer, ChainSum(2), ALGORITHMS["grpo"], config, **asked).cut_off
    policy.generation_config.eos_token_id = list(range(len(tokenizer)))  # every token ends a row
    assert preflight(policy, tokenizer, ChainSum(2), ALGORITHMS["grpo"], config, **asked).cut_off == 0 < cut


# Models with other caches -----------------------------------------------------------------------------------------

SIZES = {"vocab_size": 16, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
SIZES |= {"num_key_value_heads": 2, "tie_word_embeddings": True, "eos_token_id": 1, "pad_token_id": 0}
MIXED = {
    "qwen3_5": lambda: Qwen3_5TextConfig(
        **SIZES, num_hidden_layers=2, layer_types=["linear_attention", "full_attention"], head_dim=16,
        linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=16, linear_value_head_dim=16,
    ),
    "lfm2": lambda: Lfm2Config(**SIZES, num_hidden_layers=2, layer_types=["conv", "full_attention"], block_ff_dim=64),
}  # fmt: skip


@pytest.mark.parametrize("build", MIXED)
def test_models_with_linear_layers_branch_and_their_sampled_logprobs_are_the_scored_ones(build, tokenizer):
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        policy = AutoModelForCausalLM.from_config(MIXED[build]()).eval()
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4.0)
    policy.generation_config.eos_token_id = None
    rollouts = sample(policy, tokenizer, ["1+2+3=", "4+5+6="], group_size=6, max_new_tokens=8)
    assert len({tuple(row) for row in rollouts.completion_ids.tolist()}) > 6, "groups should have branched"
    torch.testing.assert_close(score(policy, rollouts), rollouts.old_logprobs, rtol=0, atol=2e-4)


# The mask on older cards ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompts", [["1+2="], ["1+2=", "3+4="], ["1+2=", "1+2+3="]], ids=len)
def test_before_ampere_every_row_keeps_a_padded_column_and_its_logprobs(policy, tokenizer, monkeypatch, prompts):
    torch.manual_seed(1)
    plain = sample(policy, tokenizer, prompts, 4, 6)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda _: True))
    for capability, columns in (((8, 0), 0), ((7, 5), 1), ((9, 0), 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        rows = from_text(tokenizer, prompts * 4, ["5"] * 4 * len(prompts))
        assert rows.prompt_ids.shape[1] == plain.prompt_ids.shape[1] + columns
        if columns:
            assert (rows.prompt_mask[:, 0] == 0).all(), "no pass may be without a padded row"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    torch.manual_seed(1)
    padded = sample(policy, tokenizer, prompts, 4, 6)
    monkeypatch.undo()
    assert torch.equal(padded.completion_ids, plain.completion_ids)
    torch.testing.assert_close(padded.old_logprobs, plain.old_logprobs, rtol=0, atol=1e-5)
    torch.testing.assert_close(score(policy, padded), plain.old_logprobs, rtol=0, atol=1e-5)


# Logits that are no numbers ---------------------------------------------------------------------------------------


@pytest.fixture
def broken(tokenizer, tmp_path):
    policy = small_policy(tokenizer)
    with torch.no_grad():
        policy.model.norm.weight[0] = float("nan")
    save_policy(policy, tokenizer, tmp_path / "broken")
    return policy, tokenizer, tmp_path / "broken"


def test_logits_that_are_not_finite_are_one_kind_of_error_everywhere(broken):
    policy, tokenizer, _ = broken
    grpo = ALGORITHMS["grpo"]
    config = grpo.Settings(prompts=2, group_size=2, max_new_tokens=3)
    with pytest.raises(TrainingDiverged, match="not finite"):
        evaluate(policy, tokenizer, ChainSum(2), 4)
    with pytest.raises(TrainingDiverged, match="not finite"):
        preflight(policy, tokenizer, ChainSum(2), grpo, config, problems=4)
    for every in (0, 1):  # the sampling of step 0, or the evaluation before it
        with pytest.raises(TrainingDiverged, match="step 0: .*not finite"):
            train(
                policy, tokenizer, ChainSum(2), grpo, config, steps=1, evaluate_every=every, problems=4, progress=False
            )


@pytest.mark.parametrize("command", ["evaluate", "preflight", "train", "train --evaluate-every 1"])
def test_and_one_line_of_each_command(broken, command, capsys, tmp_path):
    out = ["--out", str(tmp_path / "run")] if "train" in command else []
    asked = [*command.split(), "--policy", str(broken[2]), "--problems", "4", "--quiet", *out]
    assert main(asked) == DIVERGED
    said = capsys.readouterr().err.strip()
    assert said.splitlines()[-1].startswith("stopped: ") and "not finite" in said and "Traceback" not in said
