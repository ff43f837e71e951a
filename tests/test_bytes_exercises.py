"""Chapter 07's exercises: the answer is the ledger's, and thrift is judged beside right numbers."""

import pytest
import torch

from grpo_teach import exercises
from grpo_teach.large import model_config
from grpo_teach.memory import Setup, Shape, predict

pytestmark = pytest.mark.usefixtures("own_progress")
SHAPES = {name: Shape.of(model_config(name)) for name in ("llama-3.2-1b", "qwen2.5-1.5b")}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("critic", ["head", "lora", "separate"])
def test_the_right_answer_is_what_the_ledger_counts(name, method, dtype, critic):
    if (method, critic) == ("full", "lora"):
        pytest.skip("a LoRA critic stands on frozen weights")
    shape, alike = SHAPES[name], {"method": method, "dtype": dtype, "optimizer": "adamw"}
    ppo = predict(Setup(shape, "ppo", critic=critic, **alike))
    grpo = predict(Setup(shape, "grpo", **alike, reference="copy"))
    extra = sum(ppo.lines[x].value for x in ("weights", "critic", "gradients", "optimizer"))
    extra -= sum(grpo.lines[x].value for x in ("weights", "critic", "gradients", "optimizer"))
    weights, adapter = grpo.symbols["W"][1] - shape.output, grpo.symbols["a"][1]
    size = (grpo.lines["reference"].value - grpo.symbols["b"][1] * shape.output) / weights
    reference = exercises.EXERCISES["critic_bytes"].reference
    kind = "full" if method == "full" else "lora"
    assert reference(critic, kind, weights, adapter, shape.hidden, size) == pytest.approx(extra, rel=1e-9)


def by_chunks(normaliser):
    def answer(hidden, weight, token_ids, chunk):
        pieces = []
        for rows, ids in zip(hidden.flatten(0, 1).split(chunk), token_ids.flatten().split(chunk), strict=True):
            logits = rows @ weight.T
            pieces.append(logits.gather(-1, ids[:, None])[:, 0] - normaliser(logits))
        return torch.cat(pieces).view(token_ids.shape)

    return answer


def thrifty(hidden, weight, token_ids, chunk):
    def one(rows, ids):
        logits = rows @ weight.T
        return logits.gather(-1, ids[:, None])[:, 0] - logits.logsumexp(-1)

    parts = zip(hidden.flatten(0, 1).split(chunk), token_ids.flatten().split(chunk), strict=True)
    pieces = [torch.utils.checkpoint.checkpoint(one, *part, use_reentrant=False) for part in parts]
    return torch.cat(pieces).view(token_ids.shape)


def remarks(answer):
    verdict = exercises.check("chunked_token_logprobs", answer)
    assert verdict.passed
    return ["for the backward" in verdict.message or "until the backward" in verdict.message,
            "fails for logits of about 200" in verdict.message]  # fmt: skip


def test_what_is_kept_for_the_backward_pass_and_what_overflows_is_remarked():
    assert remarks(thrifty) == [False, False]
    assert remarks(by_chunks(lambda logits: logits.logsumexp(-1))) == [True, False]
    assert remarks(by_chunks(lambda logits: logits.exp().sum(-1).log())) == [True, True]


def whole(hidden, weight, token_ids, chunk):
    logits = hidden @ weight.T
    return logits.gather(-1, token_ids[..., None])[..., 0] - logits.logsumexp(-1)


def test_right_numbers_do_not_pass_if_every_logit_exists_at_once():
    verdict = exercises.check("chunked_token_logprobs", whole)
    assert (verdict.passed, verdict.attempted, verdict.diagnosis) == (False, True, "makes_every_logit")
    assert "768" in verdict.message  # 2 * 6 * 64
    assert not exercises.progress()["chunked_token_logprobs"]


def test_views_of_small_tensors_are_not_taken_for_large_ones():
    def expands(hidden, weight, token_ids, chunk):
        weight.expand(*token_ids.shape, *weight.shape)  # as large as [B, T, V, D] to look at, and no byte more
        return thrifty(hidden, weight, token_ids, chunk)

    assert exercises.check("chunked_token_logprobs", expands).passed
