"""Plain SFT on given texts: its loss, where it ends, its learning rate, and a run that is stopped and gone on with."""

import copy

import pytest
import torch
from states import differences

from grpo_teach import SFT, ChainSum, InputError, from_text, score, supervise
from grpo_teach.learner import adamw

TASK = ChainSum(2)


def draw(done, generator):
    problems = TASK.sample(4, generator)
    return [problem.prompt for problem in problems], [TASK.demonstration(problem) for problem in problems]


def nats(policy, tokenizer, seed=9):
    """Mean negative log-likelihood a token of some demonstrations."""
    rows = from_text(tokenizer, *draw(0.0, torch.Generator().manual_seed(seed)))
    with torch.no_grad():
        return -float(score(policy, rows).sum() / rows.mask.sum())


def test_it_learns_the_texts_and_reports_their_likelihood(policy, tokenizer):
    before = nats(policy, tokenizer)
    first = nats(policy, tokenizer, seed=0)
    rows = supervise(policy, tokenizer, draw, SFT(learning_rate=1e-2), steps=40, progress=False)
    assert nats(policy, tokenizer) < before - 0.5
    assert rows[0]["loss"] == pytest.approx(first, rel=1e-5), "the loss is the negative log-likelihood a token"
    assert [row["step"] for row in rows] == list(range(40)) and not policy.training


def test_a_step_is_the_textbooks(policy, tokenizer):
    """One step by hand: cross-entropy over the completions' tokens, its gradient cut to a norm of 1."""
    by_hand = copy.deepcopy(policy)
    rows = from_text(tokenizer, *draw(0.0, torch.Generator().manual_seed(0)))
    ids = torch.cat([rows.prompt_ids, rows.completion_ids], dim=1)
    attention = torch.cat([rows.prompt_mask, rows.mask.long()], dim=1)
    places = (attention.cumsum(1) - 1).clamp(min=0)
    labels = torch.cat(
        [torch.full_like(rows.prompt_ids, -100), rows.completion_ids.masked_fill(rows.mask == 0, -100)], 1
    )
    logits = by_hand(input_ids=ids, attention_mask=attention, position_ids=places).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.5)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
    optimizer.step()
    before = copy.deepcopy(policy.state_dict())
    supervise(policy, tokenizer, draw, SFT(learning_rate=0.5), steps=1, optimizer=torch.optim.SGD, progress=False)
    assert len(differences(before, policy.state_dict())) > 5
    for a, b in zip(by_hand.parameters(), policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_it_ends_by_steps_or_by_tokens_read(policy, tokenizer):
    rows = supervise(policy, tokenizer, draw, tokens=300, progress=False)
    sizes = []
    generator = torch.Generator().manual_seed(0)
    while sum(sizes) < 300:
        batch = from_text(tokenizer, *draw(0.0, generator))
        sizes.append(int(batch.prompt_mask.sum() + batch.mask.sum()))
    assert [row["tokens"] for row in rows] == torch.tensor(sizes).cumsum(0).tolist()
    for wrong in ({}, {"steps": 1, "tokens": 1}):
        with pytest.raises(InputError, match="steps or tokens"):
            supervise(policy, tokenizer, draw, **wrong)


def test_the_schedule_gives_the_learning_rate_and_draw_hears_how_far_it_is(policy, tokenizer):
    rates, heard = [], []

    def optimizer(parameters, learning_rate):
        made = adamw(parameters, learning_rate)
        made.register_step_pre_hook(lambda opt, *_: rates.append(opt.param_groups[0]["lr"]))
        return made

    def listening(done, generator):
        heard.append(done)
        return draw(done, generator)

    options = {"schedule": lambda done: 1 - done, "optimizer": optimizer, "progress": False}
    supervise(policy, tokenizer, listening, SFT(learning_rate=4e-3), steps=4, **options)
    assert heard == [0, 0.25, 0.5, 0.75] and rates == pytest.approx([4e-3, 3e-3, 2e-3, 1e-3])


class Stopped(Exception):
    pass


def test_a_stopped_run_goes_on_to_the_same_bits(template, tokenizer, tmp_path):
    def run(steps, name, stop_at=None):
        policy, count = copy.deepcopy(template), 0

        def drawing(done, generator):
            nonlocal count
            count += 1
            if count == stop_at:
                raise Stopped
            return draw(done, generator)

        options = {"checkpoint": tmp_path / name, "checkpoint_every": 2, "about": {"name": "a"}, "progress": False}
        return policy, supervise(policy, tokenizer, drawing, steps=steps, **options)

    whole, rows = run(5, "whole")
    with pytest.raises(Stopped):
        run(5, "parts", stop_at=4)
    again, resumed = run(5, "parts")
    assert differences(whole.state_dict(), again.state_dict()) == [] and rows == resumed
    _, once_more = run(5, "parts")
    assert once_more == rows, "a finished run is not run again"
    with pytest.raises(InputError, match="other settings"):
        supervise(again, tokenizer, draw, steps=5, checkpoint=tmp_path / "parts", about={"name": "b"})


def test_the_seed_decides_shuffles_too_and_a_stopped_run_keeps_them(template, tokenizer, tmp_path):
    config = SFT(learning_rate=1e-3, minibatches=2)

    def run(steps, name=None):
        torch.seed()
        checkpoint = str(tmp_path / name) if name else None
        return supervise(copy.deepcopy(template), tokenizer, draw, config, steps=steps, seed=3, checkpoint=checkpoint,
                         checkpoint_every=1, progress=False)  # fmt: skip

    whole = run(4)
    assert whole == run(4)

    def stop(done, generator):
        if done >= 0.5:
            raise Stopped
        return draw(done, generator)

    with pytest.raises(Stopped):
        options = {"seed": 3, "checkpoint": tmp_path / "parts", "checkpoint_every": 1, "progress": False}
        supervise(copy.deepcopy(template), tokenizer, stop, config, steps=4, **options)
    assert run(4, "parts") == whole
    assert set(whole[0]) == {"step", "loss", "grad_norm", "tokens"}


@pytest.mark.parametrize("texts", [([], []), (["1+1="], ["2", "3"])])
def test_texts_that_do_not_pair_up_are_refused(tokenizer, texts):
    with pytest.raises(ValueError, match="as many completions as prompts"):
        from_text(tokenizer, *texts)
