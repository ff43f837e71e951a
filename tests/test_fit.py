"""A run that does not fit is refused before its model is loaded."""

import pytest
from test_cli import run
from test_large import SHAPES
from transformers import GPT2Config

from grpo_teach.clinic import fit
from grpo_teach.memory import Setup, Shape, predict

SIZES = ["--prompts", "2", "--group-size", "4", "--max-new-tokens", "16", "--steps", "1", "--problems", "0"]


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys):
    """Calls ``train`` on a tiny shape with so many bytes free; notes whether a model was loaded."""
    SHAPES["llama"].save_pretrained(tmp_path / "shape")
    loaded = []

    def load(*arguments, **options):
        loaded.append(options)
        raise KeyboardInterrupt

    monkeypatch.setattr("grpo_teach.commands.flags.load_large", load)

    def asked(free, *flags, shape=tmp_path / "shape"):
        monkeypatch.setattr(fit, "free_bytes", lambda device: free)
        loaded.clear()
        place = ["--out", tmp_path / "out", "--device", "cpu", "--random-weights", "--quiet"]
        code, out, err = run(capsys, "train", "--model", shape, *place, *SIZES, *flags)
        assert not (tmp_path / "out").exists()
        return code, out, err, bool(loaded)

    return asked


def peak(**different):
    sizes = {"prompts": 2, "group_size": 4, "max_new_tokens": 16, "prompt_tokens": 10, "optimizer": "adamw"}
    return predict(Setup(Shape.of(SHAPES["llama"]), **sizes | {"reference": "adapter"} | different)).terms["total"]


def test_the_bytes_free_decide(ask):
    needed = peak()
    assert ask(needed)[3] and not ask(needed - 1)[3]
    full = peak(method="full", reference="copy", dtype="float32", rows_a_pass=2, chunk=8)
    flags = ["--method", "full", "--dtype", "float32", "--rows-a-pass", "2", "--chunk", "8"]
    assert ask(full, *flags)[3] and not ask(full - 1, *flags)[3]
    ppo = peak(algorithm="ppo", critic="separate", reference="none", optimizer="adamw8bit", rank=3)
    flags = ["--algorithm", "ppo", "--critic", "separate", "--no-reference", "--optimizer", "adamw8bit", "--rank", "3"]
    assert ask(ppo, *flags)[3] and not ask(ppo - 1, *flags)[3]


def test_a_refusal_shows_the_ledger_and_the_flags_that_fit(ask):
    flags = ["--method", "full", "--dtype", "float32", "--rows-a-pass", "8"]
    code, out, err, loaded = ask(peak(method="full", reference="copy", dtype="float32", rows_a_pass=8) - 1, *flags)
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


def test_a_model_of_another_build_is_let_through_with_a_warning(ask, tmp_path):
    GPT2Config(n_layer=1, n_embd=8, n_head=1).save_pretrained(tmp_path / "other")
    _, _, err, loaded = ask(1, shape=tmp_path / "other")
    assert loaded and err[0].startswith("warning: ") and "gpt2" in err[0]


def test_a_model_that_is_not_there_is_refused(ask, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, _, err, loaded = ask(10**12, shape="no/such-model")
    assert code == 2 and not loaded and len(err) == 1 and "no/such-model" in err[0]


def test_free_memory_is_below_what_the_machine_has():
    psutil = pytest.importorskip("psutil")
    assert 0 < fit.free_bytes("cpu") <= psutil.virtual_memory().total
