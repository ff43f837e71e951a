"""A run that does not fit is refused before its model is loaded."""

import sys

import pytest
from test_cli import run
from test_large import SHAPES
from transformers import Gemma3TextConfig, GPT2Config, Qwen3Config

from grpo_teach import ChainSum, Scoring
from grpo_teach.clinic import fit
from grpo_teach.memory import Setup, Shape, predict

evaluation = sys.modules["grpo_teach.evaluate"]  # the package has a function of this name
SIZES = ["--prompts", "2", "--group-size", "4", "--max-new-tokens", "16", "--steps", "1", "--problems", "0"]


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys):
    """Calls ``train`` on a tiny shape with so many bytes free; notes the rows a pass that a model was loaded with."""
    SHAPES["llama"].save_pretrained(tmp_path / "shape")
    loaded = []

    def load(*arguments, **options):
        loaded.append(options["rows_a_pass"])
        raise KeyboardInterrupt

    monkeypatch.setattr("grpo_teach.commands.flags.load_large", load)

    def asked(free, *flags, shape=tmp_path / "shape", loud=False):
        monkeypatch.setattr(fit, "free_bytes", lambda device: free)
        loaded.clear()
        place = ["--out", tmp_path / "out", "--device", "cpu", "--random-weights", *([] if loud else ["--quiet"])]
        code, out, err = run(capsys, "train", "--model", shape, *place, *SIZES, *flags)
        assert not list((tmp_path / "out").rglob("*"))
        return code, out, err, [*loaded]

    return asked


def peak(**different):
    """The fewest free bytes that will do: nine tenths of them hold the ledger's peak with an evaluation before it."""
    sizes = {"evaluated": 256, "rows_a_pass": 4} | different
    return -(-ledger(**sizes).terms["total"] * 10 // 9)


def ledger(**different):
    sizes = {"prompts": 2, "group_size": 4, "max_new_tokens": 16, "prompt_tokens": 10, "optimizer": "adamw"}
    return predict(Setup(Shape.of(SHAPES["llama"]), **sizes | {"reference": "adapter"} | different))


def test_the_bytes_free_decide(ask):
    needed = peak()
    assert ask(needed)[3] and not ask(needed - 2)[3]
    full = peak(method="full", reference="copy", dtype="float32", rows_a_pass=2, chunk=8)
    flags = ["--method", "full", "--dtype", "float32", "--rows-a-pass", "2", "--chunk", "8"]
    assert ask(full, *flags)[3] and not ask(full - 2, *flags)[3]
    ppo = peak(algorithm="ppo", critic="separate", reference="none", optimizer="adamw8bit", rank=3)
    flags = ["--algorithm", "ppo", "--critic", "separate", "--no-reference", "--optimizer", "adamw8bit", "--rank", "3"]
    assert ask(ppo, *flags)[3] and not ask(ppo - 2, *flags)[3]


def test_a_refusal_shows_the_ledger_and_the_flags_that_fit(ask):
    flags = ["--method", "full", "--dtype", "float32", "--rows-a-pass", "8"]
    code, out, err, loaded = ask(peak(method="full", reference="copy", dtype="float32", rows_a_pass=8) - 2, *flags)
    assert code == 2 and not loaded
    assert any(line.startswith("weights") for line in out) and any(line.startswith("peak") for line in out)
    assert len(err) == 1 and "nearest that fits: --rows-a-pass 1" in err[0]
    assert ask(peak(method="full", reference="copy", dtype="float32", rows_a_pass=1), *flags, "--rows-a-pass", "1")[3]
    code, _, err, _ = ask(1000, *flags)
    assert code == 2 and "nothing that the ledger knows" in err[0]


def test_the_flags_that_fit_are_accepted_and_keep_what_a_kl_term_needs(ask):
    for algorithm in (["--algorithm", "ppo", "--critic", "separate", "--kl-coefficient", "0.1"], ["--beta", "0.1"]):
        whole = ["--method", "full", "--dtype", "float32", *algorithm]
        for free in (10**6, 5 * 10**5, 4 * 10**5):
            code, _, err, loaded = ask(free, *whole)
            if not loaded and "--" in err[0]:
                cure = err[0].split("nearest that fits: ")[1].split()
                assert "--no-reference" not in cure
                assert ask(free, *whole, *cure)[3], cure


def test_an_evaluation_counts_where_the_run_asks_for_one(ask):
    rows = ["--rows-a-pass", "64"]  # 256 problems at once, beside 8 rows to train on
    asked, none = peak(rows_a_pass=64), peak(rows_a_pass=64, evaluated=0)
    assert asked > 2 * none
    assert ask(asked, *rows)[3] and not ask(asked - 2, *rows)[3]
    assert ask(none, *rows, "--evaluate-every", "0")[3]
    assert not ask(none, *rows, "--evaluate-every", "0", "--problems", "512")[3], "the one at the end"
    few = peak(rows_a_pass=64, evaluated=20)
    assert ask(few, *rows, "--evaluate-every", "0", "--problems", "20")[3]


def test_a_tenth_of_what_is_free_is_kept(ask):
    needed = ledger(evaluated=256, rows_a_pass=4).terms["total"]
    code, _, err, loaded = ask(needed, "--rows-a-pass", "4")
    assert code == 2 and not loaded and "GiB free, of which a tenth is kept; nearest that fits" in err[0]
    cure = err[0].split("nearest that fits: ")[1].split()
    assert ask(needed, "--rows-a-pass", "4", *cure)[3]
    assert ask(needed * 10 // 9 + 1, "--rows-a-pass", "4")[3] and not ask(needed * 10 // 9 - 1, "--rows-a-pass", "4")[3]


def test_as_many_rows_a_pass_as_fit(ask):
    many = ["--group-size", "24"]  # B = 48, then 24, 12 and 6; 3 would be below the default
    free = {rows: peak(group_size=24, rows_a_pass=rows) for rows in (48, 24, 12, 6, 4)}
    assert sorted(free, key=free.get) == [4, 6, 12, 24, 48]
    for rows, enough in free.items():
        assert ask(enough, *many)[3] == [rows], rows
    assert ask(free[12] - 2, *many)[3] == [6] and ask(free[6] - 2, *many)[3] == [4]
    assert not ask(free[4] - 2, *many)[3], "refused with the default"
    assert ask(free[48], *many, "--rows-a-pass", "5")[3] == [5]
    assert not ask(free[24], *many, "--rows-a-pass", "48")[3]


def test_the_rows_that_were_chosen_are_said(ask, monkeypatch):
    said = "rows a pass: 8, by the memory that is free; --rows-a-pass sets another"
    assert ask(peak(rows_a_pass=8), loud=True)[1] == [said] and ask(peak(rows_a_pass=8))[1] == []
    assert ask(peak(rows_a_pass=8), "--rows-a-pass", "8", loud=True)[1] == []
    assert ask(None)[3] == [4], "what is free is not known"


def test_the_rows_an_evaluation_samples_are_those_the_ledger_counts(policy, tokenizer, monkeypatch):
    asked, task = [], ChainSum(2)
    sample = evaluation.sample
    monkeypatch.setattr(evaluation, "sample", lambda p, t, prompts, *rest: asked.append(len(prompts)) or
                        sample(p, t, prompts, *rest))  # fmt: skip
    for rows, problems in ((1, 20), (3, 20), (3, 30), (100, 30)):
        policy.scoring = Scoring(rows_a_pass=rows)
        asked.clear()
        evaluation.evaluate(policy, tokenizer, task, problems, max_new_tokens=2)
        setup = Setup(Shape.of(policy.config), rows_a_pass=rows, evaluated=problems)
        assert max(asked) == predict(setup).symbols["E"][1], (rows, problems)


@pytest.mark.parametrize("name, config", [("gemma3_text", Gemma3TextConfig), ("qwen3", Qwen3Config)])
def test_a_build_that_was_never_measured_is_predicted_with_a_warning(ask, tmp_path, capsys, name, config):
    sizes = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 16}
    config(**sizes, num_attention_heads=4, num_key_value_heads=2).save_pretrained(tmp_path / "other")
    warning = f"warning: the ledger was measured on llama and qwen2; for {name} it may be a tenth too low"
    _, _, err, loaded = ask(10**12, shape=tmp_path / "other")
    assert loaded and err[0] == warning
    code, _, err = run(capsys, "memory", "--model", tmp_path / "other")
    assert code == 0 and err == [warning]
    assert warning not in ask(10**12)[2]


def test_a_model_of_another_build_is_let_through_with_a_warning(ask, tmp_path):
    GPT2Config(n_layer=1, n_embd=8, n_head=1).save_pretrained(tmp_path / "other")
    _, _, err, loaded = ask(1, shape=tmp_path / "other")
    assert loaded == [4] and err[0].startswith("warning: ") and "gpt2" in err[0]


def test_a_model_that_is_not_there_is_refused(ask, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, _, err, loaded = ask(10**12, shape="no/such-model")
    assert code == 2 and not loaded and len(err) == 1 and "no/such-model" in err[0]


def test_free_memory_is_below_what_the_machine_has():
    psutil = pytest.importorskip("psutil")
    assert 0 < fit.free_bytes("cpu") <= psutil.virtual_memory().total
