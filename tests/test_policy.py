"""The shipped policy, its tokenizer, and saving and loading them."""

import copy
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

import grpo_teach
from grpo_teach import ChainSum, InputError, load_base, load_policy, sample, wilson_interval
from grpo_teach.policy import Critic, Models, frozen_copy, save_policy, tiny_policy

DATA = Path(grpo_teach.__file__).parent / "data"


@pytest.fixture(scope="module")
def answers(base):
    """1024 held-out problems, one answer each, at temperature 1."""
    torch.manual_seed(0)
    task = ChainSum(5)
    problems = task.test_set(1024)
    texts = []
    for start in range(0, 1024, 256):
        part = [problem.prompt for problem in problems[start : start + 256]]
        texts += sample(base.policy, base.tokenizer, part, max_new_tokens=32).texts(base.tokenizer)
    rewards = task.reward(texts, problems).flatten().tolist()
    return [(text, reward, task.thinks(text)) for text, reward in zip(texts, rewards, strict=True)]


def interval(hits, z=1.959964):
    """Wilson interval of a list of booleans."""
    return wilson_interval(sum(hits) / len(hits), len(hits), z)


# The base ---------------------------------------------------------------------------------------------------------


def test_the_base_is_a_small_llama_in_float32(base):
    assert isinstance(base.policy, LlamaForCausalLM)
    assert not base.policy.training
    assert {p.dtype for p in base.policy.parameters()} == {torch.float32}
    assert 400_000 < sum(p.numel() for p in base.policy.parameters()) < 600_000
    assert sum(file.stat().st_size for file in (DATA / "base").rglob("*")) < 2.5e6


def test_the_base_answers_a_quarter_and_thinks_a_fifth_of_the_time(answers):
    low, high = interval([reward == 1 for _, reward, _ in answers])
    assert low < 0.28 and high > 0.22
    low, high = interval([thinks for *_, thinks in answers])
    assert low < 0.22 and high > 0.18


def test_a_bare_answer_is_a_guess_and_thinking_pays(answers):
    bare = [reward == 1 for _, reward, thinks in answers if not thinks]
    worked = [reward == 1 for _, reward, thinks in answers if thinks]
    low, high = interval(bare)
    assert low < 0.1 < high, "an answer without work is right one time in ten"
    assert interval(worked)[0] > 0.5, "worked answers are mostly right, though not always"
    assert interval(worked)[0] < 0.95


def test_loading_twice_gives_the_same_weights(base):
    again, tokenizer = load_base()
    assert all(torch.equal(a, b) for a, b in zip(base.policy.parameters(), again.parameters(), strict=True))
    assert tokenizer.get_vocab() == base.tokenizer.get_vocab()


# The tokenizer ----------------------------------------------------------------------------------------------------


def test_the_shipped_tokenizer_is_the_one_the_package_builds(base, tokenizer):
    assert base.tokenizer.get_vocab() == tokenizer.get_vocab()
    text = "<think>7+5=2;</think>2"
    assert base.tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert base.tokenizer.padding_side == tokenizer.padding_side == "left"


def test_text_survives_the_tokenizer(tokenizer):
    task = ChainSum((2, 5, 8))
    for problem in task.sample(50, torch.Generator().manual_seed(0)):
        for text in (problem.prompt, task.demonstration(problem)):
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.decode(ids) == text
            assert len(ids) == len(text.replace("<think>", "T").replace("</think>", "t"))


def test_the_special_tokens_are_distinct_and_are_left_out_of_text(tokenizer):
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    ids = [*tokenizer("1+1=")["input_ids"], tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "1+1="


def test_prompts_get_no_extra_tokens(tokenizer):
    assert len(tokenizer("1+1=")["input_ids"]) == 4


# Saving and loading -----------------------------------------------------------------------------------------------


def test_a_saved_policy_comes_back_with_the_same_logprobs(policy, tokenizer, tmp_path):
    save_policy(policy, tokenizer, tmp_path)
    loaded, loaded_tokenizer = load_policy(tmp_path)
    ids = torch.tensor([loaded_tokenizer("1+2=")["input_ids"]])
    assert torch.equal(loaded(input_ids=ids).logits, policy(input_ids=ids).logits)
    assert loaded_tokenizer.eos_token_id == tokenizer.eos_token_id


def test_a_disk_that_fills_up_leaves_the_policy_that_was_there(policy, other_policy, tokenizer, tmp_path, monkeypatch):
    def full(folder):
        (tmp_path / "policy" / ".part" / "vocabulary").write_text("half")
        raise OSError(28, "No space left on device")

    save_policy(policy, tokenizer, tmp_path / "policy")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch, pytest.raises(InputError, match="policy.*: No space left on device"):
        patch.setattr(type(tokenizer), "save_pretrained", lambda self, folder: full(folder))
        save_policy(other_policy, tokenizer, tmp_path / "policy")  # the weights are written before
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("content", [None, {}, {"config.json": "not json"}, {"config.json": "{}"}])
def test_a_folder_without_a_policy_is_refused_in_one_line(tmp_path, content):
    folder = tmp_path / "policy"
    if content is not None:
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_text(text)
    with pytest.raises(InputError, match="policy") as caught:
        load_policy(folder)
    assert len(str(caught.value).splitlines()) == 1


def test_broken_weights_are_refused(policy, tokenizer, tmp_path):
    save_policy(policy, tokenizer, tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError):
        load_policy(tmp_path)


# Models -----------------------------------------------------------------------------------------------------------


def test_the_reference_is_a_frozen_copy(policy):
    reference = frozen_copy(policy)
    before = copy.deepcopy(reference.state_dict())
    with torch.no_grad():
        policy.model.norm.weight.add_(1.0)
    assert all(torch.equal(before[name], weight) for name, weight in reference.state_dict().items())
    assert not any(p.requires_grad for p in reference.parameters())
    assert all(p.requires_grad for p in policy.parameters())


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_a_fresh_critic_predicts_zero_and_a_separate_one_shares_nothing(policy, kind):
    models = Models.build(policy, kind)
    assert not models.critic.head.weight.any() and not models.critic.head.bias.any()
    owned = {p.data_ptr() for p in models.critic.parameters()}
    assert owned.isdisjoint(p.data_ptr() for p in policy.parameters())
    assert len(owned) == (2 if kind == "shared" else 2 + len(list(policy.model.parameters())))


def test_only_policy_and_critic_learn(policy):
    models = Models.build(policy, "separate")
    learning = {id(p) for p in models.trainable().parameters()}
    assert learning == {id(p) for p in [*policy.parameters(), *models.critic.parameters()]}
    assert set(Models(policy).trainable()) == {"policy"}


def test_an_unknown_kind_of_critic_is_refused(policy):
    with pytest.raises(InputError, match="critic"):
        Critic(policy, "none")


def test_the_seed_decides_the_tiny_policys_weights(tokenizer):
    first, again, other = ((torch.manual_seed(s), tiny_policy(tokenizer).lm_head.weight)[1] for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
