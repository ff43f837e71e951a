"""Measuring the ledger's set-ups: the instrument against torch's own profiler, and predictions against both."""

import dataclasses
import json
import math

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig

from grpo_teach import InputError
from grpo_teach.memory import STAYING, Setup, Shape, predict
from grpo_teach.memory.grid import GRIDS, TINY, beside, config_of, plain, record, setup_in
from grpo_teach.memory.measure import Live, Meter, measure, measure_apart, prompts, rewarded, storages
from grpo_teach.records import load_record
from grpo_teach.rollout import sample_ids

pytest.importorskip("accelerate")
pytest.importorskip("bitsandbytes")
pytest.importorskip("peft")

RECORD = load_record("memory")


# The instrument ---------------------------------------------------------------------------------------------------


def profiled(work):
    """The most bytes that torch's own CPU allocator had handed out at one time, beyond what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    changes = [event.nbytes() for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for change in changes:
        now += change
        most = max(most, now)
    return most


def test_the_instrument_sees_what_torchs_profiler_sees():
    def network():
        # One matrix used twice, so that its gradients are added up, and log-probs over a vocabulary.
        matrix = torch.ones(300, 200, requires_grad=True)
        hidden = torch.ones(50, 200) @ matrix.T @ matrix
        (hidden @ matrix.T).logsumexp(-1).sum().backward()

    network()  # what a first call sets up
    with Live() as live:
        network()
    assert live.most == pytest.approx(profiled(network), rel=0.02)


def test_a_storage_counts_once_and_as_long_as_it_lives():
    with Live() as live:
        a = torch.zeros(1000)
        view = a[:500].reshape(5, 100)
        del a
        assert live.now == 4000 and view.sum() == 0
        del view
        assert live.now <= 8  # the scalar of the comparison at most
    assert live.take() >= 4000 > live.take()  # and it begins anew


def test_what_was_there_before_is_not_counted():
    weight = torch.zeros(1000)
    with Live([weight]) as live:
        weight.add_(1)
    assert live.most == 0


def test_a_phase_has_its_own_peak_and_keeps_the_largest_of_its_turns():
    live = Live()
    meter = Meter(live)
    with live:
        kept = torch.zeros(100)
        meter.enter("sampling")
        torch.zeros(1000)
        meter.enter("update")
        meter.enter("sampling")
        torch.zeros(500)
        meter.enter("end")
    assert meter.most == {"loading": 400, "sampling": 4400, "update": 400} and len(kept) == 100


def test_a_batch_has_the_set_ups_sizes_and_no_end(policy):
    setup = setup_in("llama-tied", {"prompts": 3, "prompt_tokens": 10, "padded": True})
    ids, mask = prompts(setup, policy.device)
    assert ids.shape == (3, 10) and (mask.sum(1) == 9).all() and len(ids.unique(dim=0)) == 3
    rollouts = sample_ids(policy, ids, mask, setup.group_size, 40, 1.0, ends=[], pad=0)
    assert (rollouts.lengths == 40).all() and len(rollouts) == 12
    rewards = rewarded(setup, rollouts, None)
    assert rewards.shape == (3, 4) and (rewards.max(1).values > rewards.min(1).values).all()
    imitation = dataclasses.replace(setup, algorithm="sft", padded=False)
    assert (rewarded(imitation, rollouts, None) == 1).all()
    assert prompts(imitation, policy.device)[1].all()


def test_a_reward_model_reads_every_row_without_its_padding(policy):
    setup = setup_in("llama-tied", {"prompts": 2, "prompt_tokens": 6, "rows_a_pass": 3})
    rollouts, read = sample_ids(policy, *prompts(setup, policy.device), 4, 5, 1.0, ends=[], pad=0), []
    rewarded(setup, rollouts, read.append)
    texts = torch.cat([rollouts.prompt_ids[:, 1:], rollouts.completion_ids], dim=1)
    assert torch.equal(torch.cat(read), texts) and [len(rows) for rows in read] == [3, 3, 2]


# Prediction and measurement ---------------------------------------------------------------------------------------

LIVE = {"a critic of its own": 13, "adapters, checkpointing off": 25, "4 bits, a reward model": 19}


@pytest.mark.parametrize("row", LIVE.values(), ids=LIVE)
def test_predictions_are_within_5_percent_of_what_is_measured_now(row):
    model, different = GRIDS["small"][row]
    sizes = {"prompts": 2, "group_size": 2, "max_new_tokens": 12, "rows_a_pass": 2}
    setup = setup_in(model, different | sizes)
    measured = measure(config_of(model), setup, "cpu")
    found = beside(setup, measured)
    assert abs(found["difference"]) < 0.05
    assert found["peak_phase"] == found["measured_peak_phase"] == max(measured["phases"], key=measured["phases"].get)
    for term in (*STAYING, "gradients"):
        assert measured["bytes"][term] == pytest.approx(predict(setup).lines[term].value, rel=0.02, abs=2000), term
    assert measured["bytes"]["total"] == max(measured["phases"].values())
    assert measured["seconds"] > 0 and measured["tokens_a_second"] == pytest.approx(48 / measured["seconds"])


def test_a_padding_token_of_zeros_in_a_deep_model_stops_no_measurement():
    # The second prompt is the token 2 again and again; zeros there would grow by each norm's backward pass.
    sizes = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 30, "pad_token_id": 2}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.1, "rms_norm_eps": 1e-9}
    config = AutoConfig.for_model("llama", **sizes)
    setup = Setup(Shape.of(config), method="lora", dtype="float32", optimizer="adamw", prompts=2, group_size=2,
                  prompt_tokens=6, max_new_tokens=4, checkpointing=False)  # fmt: skip
    assert abs(beside(setup, measure(config, setup, "cpu"))["difference"]) < 0.1


def test_an_evaluation_is_measured_as_predicted():
    # Sixteen times as many rows as are trained on: the evaluation is the peak.
    sizes = {"prompts": 1, "group_size": 2, "max_new_tokens": 12, "rows_a_pass": 4, "evaluated": 32}
    setup = setup_in("llama-tied", {"method": "full", "dtype": "float32", "padded": False} | sizes)
    found = beside(setup, measure(config_of("llama-tied"), setup, "cpu"))
    assert found["peak_phase"] == found["measured_peak_phase"] == "evaluation"
    assert abs(found["difference"]) < 0.05
    assert plain(setup)["evaluated"] == 32 and "evaluated" not in plain(dataclasses.replace(setup, evaluated=0))


def test_the_recorded_grid_is_whole_and_within_5_percent():
    rows = RECORD["runs"]
    assert [(row["model"], row["setup"]) for row in rows] == [(m, plain(setup_in(m, d))) for m, d in GRIDS["small"]]
    assert len(rows) >= 24
    for row in rows:
        predicted, measured = row["predicted_bytes"]["total"], row["measured_bytes"]["total"]
        assert abs(predicted - measured) < 0.05 * measured, row["label"]
        assert row["difference"] == pytest.approx(predicted / measured - 1)
        assert 10e6 < measured < 200e6 and row["resident_bytes"] > measured / 2


def test_a_billion_weights_are_measured_whole_and_within_5_percent():
    rows = load_record("memory_1b_short")["runs"]
    expected = [(model, plain(setup_in(model, different))) for model, different in GRIDS["1b_short"]]
    assert [(row["model"], row["setup"]) for row in rows] == expected
    for row in rows:
        assert abs(row["predicted_bytes"]["total"] / row["measured_bytes"]["total"] - 1) < 0.05, row["label"]
        assert row["measured_bytes"]["total"] > 10**9


@pytest.mark.parametrize("name", ["memory", "memory_1b_short"])
def test_the_recorded_predictions_are_the_ledgers_of_today(name):
    shapes = {}
    for row in load_record(name)["runs"]:
        shape = shapes.setdefault(row["model"], Shape.of(config_of(row["model"])))
        assert row["predicted_bytes"] == predict(Setup(shape, **row["setup"])).terms, row["label"]


def test_the_recorded_grid_covers_what_the_ledger_knows():
    setups = [row["setup"] for row in RECORD["runs"]]
    for name in ("algorithm", "method", "critic", "reference", "reward_model", "optimizer", "checkpointing", "padded"):
        choices = {field.name: field for field in dataclasses.fields(Setup)}[name].metadata["choices"] or (True, False)
        assert {setup[name] for setup in setups} == set(choices), name
    assert {row["model"] for row in RECORD["runs"]} == set(TINY)
    assert {row["measured_peak_phase"] for row in RECORD["runs"]} == {"sampling", "update"}


def test_the_large_grid_has_every_algorithm_critic_and_method():
    asked = {(d["method"], d["algorithm"], d.get("critic"), d.get("reference")) for _, d in GRIDS["1b"]}
    assert len(asked) == len(GRIDS["1b"]) == 3 * 6 - 1 + 2


def test_a_grid_is_gone_on_with_and_not_mixed(tmp_path, monkeypatch):
    model, different = GRIDS["small"][6]
    calls = []

    def pretend(config, setup, device, cap):
        calls.append(setup)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {"bytes": {"total": 10}, "phases": {"update": 10}, "seconds": 1.0, "instrument": "none"}

    monkeypatch.setitem(GRIDS, "tiny", [(model, different), (model, different | {"rank": 8})])
    monkeypatch.setattr("grpo_teach.memory.grid.measure_apart", pretend)
    path, watched = tmp_path / "memory.json", []
    with pytest.raises(KeyboardInterrupt):
        record("tiny", path, watch=watched.append)
    assert len(json.loads(path.read_text())["runs"]) == 1
    assert len(record("tiny", path, watch=watched.append)["runs"]) == 2
    assert [setup.rank for setup in calls] == [16, 8, 8] and len(watched) == 3
    assert len(record("tiny", path, cap=10**9)["runs"]) == 4, "another cap, another row"
    path.write_text(path.read_text().replace('"threads": ', '"threads": 1'))
    with pytest.raises(InputError, match="threads"):
        record("tiny", path)


def test_out_of_memory_is_a_result():
    setup = setup_in("llama-tied", {})
    found = beside(setup, {"instrument": "none", "out_of_memory": "update"})
    assert found["measured_bytes"] is None and found["out_of_memory"] == "update"
    assert math.isclose(found["predicted_bytes"]["total"], predict(setup).terms["total"])


def test_a_process_of_its_own_says_how_much_memory_it_took():
    setup = setup_in("llama-tied", {"method": "full", "dtype": "float32", "optimizer": "adamw", "max_new_tokens": 4})
    measured = measure_apart(config_of("llama-tied"), setup, "cpu")
    assert measured["resident_bytes"] is None or measured["resident_bytes"] > measured["bytes"]["total"] / 2


@pytest.mark.parametrize("device, cap, word", [("cpu", 2**30, "cap"), ("cuda", None, "no GPU")])
def test_what_cannot_be_measured_is_refused(monkeypatch, device, cap, word):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=word):
        measure(config_of("llama-tied"), setup_in("llama-tied", {}), device, cap)


def test_storages_count_views_once():
    policy = torch.nn.Linear(3, 3)
    assert storages([policy.weight, policy.weight.T, policy.bias]) == 48
