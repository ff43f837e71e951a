"""Large models in training, on tiny shapes: chunks, passes, gradients, 8-bit states, float16, and resuming."""

import copy
import dataclasses

import pytest
import torch
from states import differences, run_differences
from test_large import LARGE, PROMPTS, storages, tiny, waken
from torch.utils._python_dispatch import TorchDispatchMode

from grpo_teach import ALGORITHMS, ChainSum, InputError, sample, score, train
from grpo_teach.__main__ import main
from grpo_teach.large import adamw8bit
from grpo_teach.policy import Models
from grpo_teach.rollout import score_with_values
from grpo_teach.train import adamw

VOCABULARY = 320
CRITICS = {"full": ["shared", "separate"], "lora": ["shared", "lora", "separate"], "qlora": ["shared", "lora"]}
CRITICS["qlora"] += ["separate"]


class Largest(TorchDispatchMode):
    """Elements in memory of the largest floating-point tensor with a vocabulary's last dimension that a step makes."""

    elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        made = function(*arguments, **(named or {}))
        for tensor in torch.utils._pytree.tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.shape[-1:] == (VOCABULARY,):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.itemsize)
        return made


# Chunks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["full", "qlora"])
def test_no_step_forward_or_back_holds_more_than_a_chunk_of_logits(method):
    policy, tokenizer = tiny(method=method, rows_a_pass=24)
    rollouts = sample(policy, tokenizer, PROMPTS, 12, 9)
    seen = []
    for chunk in (64, 10**6):  # a chunk is as large as the output matrix, which is there anyway
        policy.scoring = dataclasses.replace(policy.scoring, chunk=chunk)
        policy.zero_grad()
        with Largest() as largest:
            logprobs = score(policy, rollouts, 0.7)
            logprobs.sum().backward()
        seen.append((largest.elements, logprobs, [p.grad for p in policy.parameters() if p.requires_grad]))
    assert rollouts.mask.numel() == 24 * 9
    assert seen[0][0] == 64 * VOCABULARY and seen[1][0] == 24 * 9 * VOCABULARY
    for a, b in zip(seen[0][1:], seen[1][1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


# Passes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method, critic", [(m, c) for m, kinds in CRITICS.items() for c in [None, *kinds]])
def test_passes_made_again_in_the_backward_pass_give_the_same_gradient(method, critic):
    policy, tokenizer = tiny(method=method, rows_a_pass=3)
    rollouts = sample(waken(policy), tokenizer, PROMPTS, 4, 9)
    models = Models.build(policy, critic)
    if critic:
        torch.nn.init.normal_(models.critic.head.weight)
    models.trainable().train()  # as the loop does: only then are layers checkpointed
    weights, found, kept = torch.randn(rollouts.mask.shape), [], []
    for recompute, rows in ((True, 3), (False, 64)):
        policy.scoring = dataclasses.replace(policy.scoring, recompute=recompute, rows_a_pass=rows)
        models.trainable().zero_grad()
        bytes_kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, n=bytes_kept: n.append(t.nbytes) or t, lambda t: t):
            if critic:
                logprobs, values = score_with_values(policy, models.critic, rollouts, 0.7)
            else:
                logprobs, values = score(policy, rollouts, 0.7), 0.0
        (weights * (logprobs + values)).sum().backward()
        found.append([p.grad for p in models.trainable().parameters() if p.requires_grad])
        kept.append(sum(bytes_kept))
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in found[0])
    scale = max(float(gradient.abs().max()) for gradient in found[1])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * scale)
    assert kept[0] < kept[1] / 5, "a pass to be made again keeps nothing but its rows' log-probs"


@LARGE
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_sampling_first_takes_no_gradient_away(shape, method):
    policy, tokenizer = tiny(shape, method)
    rollouts = sample(waken(policy), tokenizer, PROMPTS, 2, 6)  # in evaluation mode, which repacks 4-bit layers
    score(policy, rollouts).sum().backward()
    after = [p.grad for p in policy.parameters() if p.requires_grad]
    fresh, _ = tiny(shape, method)
    fresh.load_state_dict({n: p for n, p in policy.named_parameters() if p.requires_grad}, strict=False)
    score(fresh.train(), rollouts).sum().backward()
    before = [p.grad for p in fresh.parameters() if p.requires_grad]
    assert all(gradient.abs().sum() > 0 for gradient in after)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


# Training ---------------------------------------------------------------------------------------------------------


class EverySecond(ChainSum):
    """Every second answer is right, whatever it says, so that random weights see mixed groups."""

    def reward(self, completions, problems):
        return torch.arange(len(completions)).remainder(2).float().reshape(len(problems), -1)


SIZES = {"prompts": 2, "group_size": 4, "max_new_tokens": 6, "learning_rate": 3e-3, "minibatches": 2}
RUNS = {
    "grpo lora": ("grpo", "lora", "float32", adamw, {"beta": 0.05}),
    "grpo qlora 8 bit": ("grpo", "qlora", "bfloat16", adamw8bit, {"beta": 0.05}),
    "grpo lora float16": ("grpo", "lora", "float16", adamw8bit, {}),
    "ppo qlora shared": ("ppo", "qlora", "bfloat16", adamw8bit, {"critic": "shared", "kl_coefficient": 0.1}),
    "ppo qlora lora": ("ppo", "qlora", "float32", adamw8bit, {"critic": "lora", "epochs": 2}),
    "ppo lora lora": ("ppo", "lora", "float16", adamw, {"critic": "lora", "kl_coefficient": 0.1}),
    "ppo qlora separate": ("ppo", "qlora", "float32", adamw, {"critic": "separate"}),
    "ppo full separate": ("ppo", "full", "bfloat16", adamw8bit, {"critic": "separate"}),
}


def run(name, out=None, steps=2, shape="llama", **options):
    """Train a policy loaded afresh. A resumed run finds the random state in disorder."""
    algorithm, method, dtype, optimizer, settings = RUNS[name]
    config = ALGORITHMS[algorithm].Settings(**SIZES | settings)
    policy, tokenizer = tiny(shape, method, dtype, rows_a_pass=3)
    torch.manual_seed(5 if options.get("resume") else 4)
    options = {"optimizer": optimizer, "out": out, "progress": False} | options
    return train(policy, tokenizer, EverySecond(2), ALGORITHMS[algorithm], config, steps=steps, **options)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_resumed_in_new_objects_is_bit_identical(tmp_path, name):
    shape = "qwen" if "shared" in name else "llama"
    whole = run(name, tmp_path / "whole", steps=4, shape=shape)
    run(name, tmp_path / "parts", steps=2, shape=shape)
    resumed = run(name, tmp_path / "parts", steps=4, shape=shape, resume=True)
    assert run_differences(tmp_path / "whole", tmp_path / "parts") == []
    assert differences(whole.models.learnt(), resumed.models.learnt()) == []
    assert differences(whole.history, resumed.history) == []
    assert any(row["grad_norm"] > 0 for row in whole.history[2:])
    if "full" not in name:
        held = torch.load(tmp_path / "whole" / "checkpoint.pt", weights_only=True)["models"]
        assert all("lora_" in key or "critic.head" in key for key in held)
        assert any("lora_B" in key and value.abs().sum() > 0 for key, value in held.items())


@pytest.mark.parametrize("name", [name for name in RUNS if "full" not in name])
def test_the_base_stays_as_it_was_and_the_policy_leaves_the_reference(name):
    trainer = run(name, steps=0)
    models, copies = trainer.models, {}
    for key, module in {"policy": models.policy, "reference": models.reference}.items():
        copies[key] = [p.detach().clone() for p in module.parameters() if not p.requires_grad]
    rollouts = sample(models.policy, trainer.tokenizer, PROMPTS, 2, 6)
    before = score(models.policy, rollouts)
    assert torch.equal(before, score(models.reference, rollouts))
    places = storages(models.reference)
    for _ in range(2):
        trainer.train_step()
    for key, module in {"policy": models.policy, "reference": models.reference}.items():
        now = [p for p in module.parameters() if not p.requires_grad]
        assert all(torch.equal(a, b) for a, b in zip(copies[key], now, strict=True))
    assert storages(models.reference) == places and places.keys() <= storages(models.policy).keys()
    with torch.no_grad():
        assert torch.equal(before, score(models.reference, rollouts))
        assert (score(models.policy, rollouts) - before).abs().max() > 1e-3


def test_eight_bit_states_are_bytes_where_tensors_are_large():
    trainer = run("grpo qlora 8 bit")
    weights = (p for group in trainer.optimizer.param_groups for p in group["params"])
    states = {p.numel(): trainer.optimizer.state[p] for p in weights}
    for elements, state in states.items():
        assert {state[name].dtype for name in ("state1", "state2")} == {
            torch.uint8 if elements >= 4096 else torch.float32
        }
    assert min(states) < 4096 <= max(states)


def test_float16_gradients_arrive_unscaled_and_an_overflow_skips_one_step():
    exact, scaled = (
        run("grpo lora", steps=0, reference=True),
        run("grpo lora float16", steps=0, optimizer=adamw),
    )
    assert scaled.scaler.is_enabled() and not exact.scaler.is_enabled()
    exact.config = scaled.config
    norms = [trainer.train_step()["grad_norm"] for trainer in (exact, scaled)]
    assert norms[1] == pytest.approx(norms[0], rel=0.3)  # unscaled it would be 65536 times as large

    def overflow(models, rollouts, rewards, config):
        yield score(models.policy, rollouts).sum() * 1e30, {}

    scaled.algorithm = scaled.algorithm._replace(update=overflow)
    before, scale = copy.deepcopy(scaled.models.learnt()), scaled.scaler.get_scale()
    scaled.train_step()
    assert differences(before, scaled.models.learnt()) == []
    assert scaled.scaler.get_scale() == scale / 2


def test_without_a_reference_no_kl_is_reported_and_none_can_be_asked_for():
    with_one, without = run("grpo lora float16"), run("grpo lora float16", reference=False)
    assert without.models.reference is None
    rows = [{k: v for k, v in row.items() if k != "kl"} for row in with_one.history]
    assert differences(rows, without.history) == []
    assert all("kl" in row for row in with_one.history)
    for name in ("grpo lora", "ppo lora lora"):
        with pytest.raises(InputError, match="KL"):
            run(name, reference=False)


def test_the_same_run_as_a_command_killed_and_resumed(capsys, tmp_path, monkeypatch):
    tiny("llama")[0].config.save_pretrained(tmp_path / "shape")
    ask = ["train", "--model", str(tmp_path / "shape"), "--random-weights", "--method", "qlora", "--critic", "lora"]
    ask += ["--device", "cpu", "--dtype", "float32", "--optimizer", "adamw8bit", "--algorithm", "ppo", "--rank", "4"]
    ask += ["--prompts", "2", "--group-size", "2", "--max-new-tokens", "4", "--evaluate-every", "0", "--quiet"]
    ask += ["--problems", "2", "--checkpoint-every", "1"]
    assert main([*ask, "--steps", "3", "--out", str(tmp_path / "whole")]) == 0
    assert main([*ask, "--steps", "1", "--out", str(tmp_path / "parts")]) == 0
    assert main([*ask, "--steps", "3", "--out", str(tmp_path / "parts"), "--resume"]) == 0
    assert run_differences(tmp_path / "whole", tmp_path / "parts") == []
    assert (tmp_path / "whole" / "policy" / "adapter_model.safetensors").exists()
    capsys.readouterr()
    model = ask[1:6] + ["--device", "cpu", "--dtype", "float32", "--rank", "4"]
    checkpoint = ["--checkpoint", str(tmp_path / "whole" / "checkpoint.pt"), "--problems", "2", "--max-new-tokens", "4"]
    assert main(["evaluate", *model, *checkpoint]) == 0
    assert main(["evaluate", *model[:-1], "5", *checkpoint]) == 2  # another rank
    assert "another shape" in capsys.readouterr().err
