"""The byte ledger: against published sizes, and by itself."""

import re
from dataclasses import fields, replace

import pytest
from transformers import BertConfig, GPT2Config

from grpo_teach import ALGORITHMS, InputError
from grpo_teach.large import Options, model_config
from grpo_teach.memory import CHANGES, STAYING, TERMS, Setup, Shape, changes, nearest, predict

GIB = 2**30
SHAPES = {name: Shape.of(model_config(name)) for name in ("llama-3.2-1b", "qwen2.5-1.5b")}
LLAMA = Setup(SHAPES["llama-3.2-1b"])


def ledger(setup=LLAMA, **different):
    return predict(replace(setup, **different))


def value(name, setup=LLAMA, **different):
    return ledger(setup, **different).lines[name].value


def total(setup=LLAMA, **different):
    return ledger(setup, **different).terms["total"]


# Published sizes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, weights", [("llama-3.2-1b", 1_235_814_400), ("qwen2.5-1.5b", 1_543_714_304)])
def test_the_shipped_shapes_have_the_published_number_of_weights(name, weights):
    assert ledger(model=SHAPES[name]).symbols["W"][1] == weights


@pytest.mark.parametrize(
    "name, sixteen, nf4, adamw, adam8, adapter, logits, kv",
    [("llama-3.2-1b", 2.30, 0.96, 18.4, 6.9, 0.17, 1.96, 32), ("qwen2.5-1.5b", 2.88, 1.06, 23.0, 8.6, 0.28, 2.32, 28)],
)
def test_the_known_table_of_bytes(name, sixteen, nf4, adamw, adam8, adapter, logits, kv):
    def terms(*names, **different):
        known = ledger(model=SHAPES[name], **different).lines
        return sum(known[term].value for term in names) / GIB

    learning = ("weights", "gradients", "optimizer")
    assert round(terms("weights", method="full"), 2) == sixteen
    assert round(terms("reference", reference="copy"), 2) == nf4
    assert round(terms(*learning, method="full", dtype="float32", optimizer="adamw"), 1) == adamw
    scales = 8 * ledger(model=SHAPES[name], method="full").symbols["k"][1] / GIB
    assert round(terms(*learning, method="full") - scales, 1) == adam8
    lora = {"method": "lora", "optimizer": "adamw", "reference": "copy"}
    assert round(terms(*learning, **lora) - terms("reference", **lora), 2) == adapter
    assert round(terms("logits", rows_a_pass=8, chunk=8 * 512) / 4, 2) == logits
    one_token = {"prompts": 1, "group_size": 2, "prompt_tokens": 1, "max_new_tokens": 1}
    assert terms("kv_cache", dtype="float16", **one_token) * GIB / 2 == kv * 1024


# The ledger by itself ---------------------------------------------------------------------------------------------


def test_the_total_is_the_largest_moment_and_its_phase_the_peak():
    for different in ({}, {"checkpointing": False}, {"prompts": 64, "max_new_tokens": 4096}, {"chunk": 4096}):
        known = ledger(**different)
        sums = {at: sum(alive.values()) for at, alive in known.moments.items()}
        assert known.terms["total"] == max(sums.values()) == sums[known.peak] == max(known.phases.values())
        assert set(known.phases) == {"sampling", "update"} and set(known.terms) == {*TERMS, "total"}
        assert all(alive[term] == known.lines[term].value for alive in known.moments.values() for term in STAYING)
        assert known.terms["total"] <= sum(known.terms[term] for term in TERMS)
    assert ledger(checkpointing=False).peak[0] == "update"
    assert ledger(prompts=64, max_new_tokens=4096, rows_a_pass=1).peak[0] == "sampling"


def test_every_symbol_of_a_printed_formula_is_explained_and_gives_the_printed_value():
    for different in ({}, {"method": "full"}, {"method": "lora", "algorithm": "ppo", "critic": "separate"}):
        known = ledger(**different, padded=not different)
        values = {name: number for name, (_, number) in known.symbols.items()}
        values |= {name: line.value for name, line in known.lines.items()}
        for name, line in known.lines.items():
            assert set(re.findall(r"[A-Za-z_]+", line.formula)) <= values.keys()
            assert f"{name} = {line.formula} = {int(eval(line.formula, {}, values)):,}\n" in known.explain()


def test_algorithms_without_a_critic_take_the_same_bytes_and_a_value_head_next_to_none():
    same = {total(algorithm=name) for name in ("sft", "policy_gradient", "grpo")}
    assert len(same) == 1
    assert 0 < total(algorithm="ppo", critic="head") / same.pop() - 1 < 1e-3


def test_a_separate_critic_doubles_what_learns_and_a_lora_critic_adds_its_adapter():
    full = {"method": "full", "dtype": "float32", "optimizer": "adamw"}
    one = sum(value(term, **full) for term in ("weights", "gradients", "optimizer"))
    two = [
        value(t, algorithm="ppo", critic="separate", **full) for t in ("weights", "critic", "gradients", "optimizer")
    ]
    assert sum(two) - 2 * one == 16 * (2048 + 1)
    adapter = 16 * sum(n + k for n, k in SHAPES["llama-3.2-1b"].matrices)
    assert value("critic", algorithm="ppo", critic="lora") == 4 * (adapter + 2049)
    assert value("critic", algorithm="ppo", critic="separate") == value("weights") + 4 * 2049


def test_a_reference_costs_a_copy_or_nothing():
    assert value("reference", reference="adapter") == value("reference") == 0
    assert value("reference", method="lora", reference="copy") == 2 * 1_235_814_400
    assert total(reference="copy") - total() == value("reference", reference="copy")


@pytest.mark.parametrize("size", ["prompts", "group_size", "prompt_tokens", "max_new_tokens", "rows_a_pass", "chunk"])
def test_more_of_anything_never_takes_less(size):
    for start in (LLAMA, replace(LLAMA, method="full", checkpointing=False, padded=False)):
        totals = [total(start, **{size: number}) for number in (2, 8, 64, 1024)]
        assert totals == sorted(totals)


def test_an_evaluation_samples_rows_of_a_prompt_each():
    plain, asked = ledger(), ledger(evaluated=100)
    assert "E" not in plain.symbols and asked.symbols["E"][1] == 32  # of the default four rows a pass, eight times
    added = {at: alive for at, alive in asked.moments.items() if at not in plain.moments}
    assert {phase for phase, _ in added} == {"evaluation"} and asked.lines == plain.lines
    assert {at: asked.moments[at] for at in plain.moments} == plain.moments
    # 32 rows of a prompt each are what a batch of 32 groups of one would be, in a group of one that no step needs.
    alone = ledger(algorithm="ppo", critic="head", prompts=32, group_size=1).moments
    for (_, name), alive in added.items():
        for term in ("gradients", "kv_cache", "logits", "activations"):
            same = alone["sampling", name].get(term, 0) - (term == "gradients") * 4 * 2049
            assert alive.get(term, 0) == same, (name, term)
    rows = [ledger(evaluated=n, rows_a_pass=r).symbols["E"][1] for n, r in ((5, 4), (1024, 1), (1024, 64), (1024, 200))]
    assert rows == [5, 8, 512, 512]
    many = ledger(evaluated=512, rows_a_pass=64, prompts=2, group_size=2, chunk=64)
    assert many.peak[0] == "evaluation" and "E" in many.explain()
    for at, written in many.written.items():
        names = {name for text in written.values() for name in re.findall(r"[A-Za-z_]+", text)}
        assert names <= many.symbols.keys() | many.lines.keys(), at


@pytest.mark.parametrize("version, repeats", [("5.15.1", True), ("5.22.2", True), ("5.23.0", False), ("5.24.1", False)])
def test_an_older_transformers_repeats_keys_and_values_where_one_token_is_read(monkeypatch, version, repeats):
    today = {}
    for name in SHAPES:
        for padded in (True, False):
            setup = Setup(SHAPES[name], padded=padded)
            today[setup] = predict(setup).moments
    monkeypatch.setattr("grpo_teach.memory.setup.transformers.__version__", version)
    for setup, moments in today.items():
        m = setup.model
        now = predict(setup).moments
        of_a_step = now["sampling", "the last token, a layer"]["activations"]
        width = 2 * m.heads * m.head_dim if repeats and setup.padded else m.kv_heads * m.head_dim
        assert of_a_step == width * 2 * (4 * 8) * (256 + 512 - 1)  # bytes, rows, tokens
        changed = [at for at in moments if moments[at] != now[at]]
        assert changed == [("sampling", "the last token, a layer")] * (repeats and setup.padded)
    one = replace(SHAPES["llama-3.2-1b"], kv_heads=1)  # expanded, not copied
    each = replace(SHAPES["llama-3.2-1b"], kv_heads=32)
    for shape in (one, each):
        width = predict(Setup(shape)).moments["sampling", "the last token, a layer"]["activations"]
        assert width == shape.kv_heads * 64 * 2 * (4 * 8) * (256 + 512 - 1)


@pytest.mark.parametrize(
    "capability, prompts, column", [((7, 5), 1, 1), ((7, 5), 4, 1), ((8, 0), 1, 0), ((9, 0), 4, 0)]
)
def test_before_ampere_one_padded_column_is_kept(monkeypatch, capability, prompts, column):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda *device: capability)
    config, shape = ALGORITHMS["grpo"].Settings(prompts=prompts), SHAPES["llama-3.2-1b"]
    for device, more in (("cuda", column), ("cpu", 0)):
        setup = Setup.of(shape, "grpo", config, Options(device=device).placed(), "adamw", True, 100)
        assert (setup.padded, setup.prompt_tokens) == (bool(more) or prompts > 1, 100 + more)


def test_what_waits_for_the_backward():
    # With checkpointing one pass waits; without, all of them.
    rows = {"prompts": 2, "group_size": 8, "rows_a_pass": 4}
    few, many = ledger(**rows).lines, ledger(**rows | {"prompts": 16}).lines
    assert few["waiting"].value - few["left"].value == many["waiting"].value - many["left"].value
    one_pass = value("waiting", checkpointing=False, **rows | {"rows_a_pass": 16})
    assert value("waiting", checkpointing=False, **rows) == one_pass
    # One pass has its gradients come while its activations go; several meet them.
    full = {"method": "full", "prompts": 1, "group_size": 4, "dtype": "float32"}
    moments, gradients = ledger(**full).moments, value("gradients", **full)
    assert moments["update", "first pass, a layer"]["gradients"] == 4 * 128_256 * 2048
    assert moments["update", "later pass, a layer"]["gradients"] == gradients
    # A second trunk waits beside the first.
    second = {"algorithm": "ppo", "critic": "lora"}
    at = ledger(**second).moments["update", "later pass, the critic's trunk"]["activations"]
    assert at == value("waiting", **second) + value("activations", **second)


def test_changes_save_and_the_nearest_set_up_fits():
    greedy = replace(LLAMA, method="full", dtype="float32", optimizer="adamw", checkpointing=False, reference="copy")
    found = changes(greedy)
    assert {"checkpointing", "8-bit AdamW", "no reference", "16-bit numbers", "LoRA", "QLoRA"} < found.keys()
    assert all(total(changed) < total(greedy) for changed in found.values())
    assert [name for name in CHANGES if name in found] == list(found)[: len(found) - 2]
    made, setup = nearest(greedy, 16 * GIB)
    assert made[0] == "checkpointing" and total(setup) <= 16 * GIB
    assert nearest(LLAMA, total()) == ([], LLAMA)
    # Of the single changes that are enough, the one that alters the result least.
    wide = replace(LLAMA, rows_a_pass=32)
    assert nearest(wide, total(wide) - 1)[0] == ["one row a pass"]
    assert nearest(LLAMA, 10**6) is None


# Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "different, word",
    [
        ({"method": "dora"}, "method"),
        ({"dtype": "int8"}, "dtype"),
        ({"algorithm": "dpo"}, "algorithm"),
        ({"algorithm": "ppo"}, "critic"),
        ({"critic": "head"}, "critic"),
        ({"algorithm": "ppo", "critic": "lora", "method": "full"}, "critic lora"),
        ({"reference": "adapter", "method": "full"}, "reference adapter"),
        ({"group_size": 1}, "group_size"),
        ({"prompts": 0}, "prompts"),
        ({"chunk": 0}, "chunk"),
        ({"max_new_tokens": 2.5}, "max_new_tokens"),
        ({"rows_a_pass": True}, "rows_a_pass"),
    ],
)
def test_impossible_set_ups_are_refused(different, word):
    with pytest.raises(InputError, match=word):
        replace(LLAMA, **different)


@pytest.mark.parametrize("config", [GPT2Config(n_layer=1), BertConfig(num_hidden_layers=1, is_decoder=True)])
def test_models_of_another_build_are_refused(config):
    with pytest.raises(InputError, match=config.model_type):
        Shape.of(config)


def test_every_field_of_a_set_up_says_what_it_is():
    assert all(field.metadata["meaning"] for field in fields(Setup)[1:])
