"""``python -m grpo_teach memory`` as a user meets it."""

import json
import re

import huggingface_hub
import pytest
from test_cli import run

from grpo_teach.memory import TERMS


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_the_last_line_is_the_promised_json(capsys, tmp_path):
    code, out, err = run(capsys, "memory", "--json", "--out", tmp_path)
    result = json.loads(out[-1])
    assert code == 0 and err == []
    assert set(result) == {"predicted_bytes", "peak_phase", "measured_bytes"}
    assert set(result["predicted_bytes"]) == {*TERMS, "total"}
    assert all(type(size) is int for size in result["predicted_bytes"].values())
    assert result["peak_phase"] in ("sampling", "scoring", "update") and result["measured_bytes"] is None
    written = json.loads((tmp_path / "memory.json").read_text())
    assert written["predicted_bytes"] == result["predicted_bytes"]
    assert written["manifest"]["config"]["model"] == "llama-3.2-1b"


def test_the_table_has_a_row_a_term_and_its_shares_make_100_percent(capsys):
    code, out, _ = run(capsys, "memory", "--model", "qwen2.5-1.5b", "--method", "lora", "--dtype", "float16")
    rows = {line.split()[0]: line for line in out}
    assert code == 0 and {*TERMS, "peak"} <= rows.keys()
    shares = [float(found[1]) for term in TERMS if (found := re.search(r"([\d.]+)%", rows[term]))]
    assert sum(shares) == pytest.approx(100, abs=0.5) and "100.0%" in rows["peak"]
    assert rows["weights"].split()[1] == "2.944" and "b * W + 4 * a" in rows["weights"]


def test_ppo_has_a_value_head_unless_told_otherwise(capsys):
    def critic(*flags):
        return json.loads(run(capsys, "memory", "--json", *flags)[1][-1])["predicted_bytes"]["critic"]

    assert critic() == 0
    assert critic("--algorithm", "ppo") == 4 * 2049
    assert critic("--algorithm", "ppo", "--critic", "lora") > 4 * 2049


def test_formulas_come_with_their_symbols(capsys):
    out = "\n".join(run(capsys, "memory", "--formulas", "--no-checkpointing")[1])
    assert "layer = norms + attention + mlp + adapters = " in out and "V = 128,256: vocabulary" in out


def test_fit_says_what_fits_and_what_to_change(capsys):
    out = run(capsys, "memory", "--fit", "16GiB")[1]
    assert any(line.startswith("fits in 16.000 GiB") for line in out)
    assert any(line.startswith("largest that fits: groups of") for line in out)
    out = run(capsys, "memory", "--method", "full", "--dtype", "float32", "--optimizer", "adamw", "--fit", "14.7GiB")[1]
    assert any(line.startswith("does not fit in 14.700 GiB") for line in out)
    saving = [float(line.split("saves")[1].split()[0]) for line in out if "saves" in line]
    assert saving == sorted(saving, reverse=True) and len(saving) > 3
    assert out[-1].startswith("nearest that fits: ") and "8-bit AdamW" in out[-1]
    assert run(capsys, "memory", "--fit", "1MB")[1][-1] == "nearest that fits: none of these, even together"


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--model", "no/such-model"], "no/such-model"),
        (["--model", "nowhere"], "llama-3.2-1b"),
        (["--algorithm", "dpo"], "dpo"),
        (["--algorithm", "ppo", "--critic", "none"], "critic"),
        (["--critic", "head"], "critic"),
        (["--method", "full", "--algorithm", "ppo", "--critic", "lora"], "critic lora"),
        (["--method", "full", "--reference", "adapter"], "adapter"),
        (["--group-size", "1"], "group_size"),
        (["--rows-a-pass", "0"], "rows_a_pass"),
        (["--prompts", "two"], "prompts"),
        (["--fit", "16"], "16GiB"),
        (["--fit", "0GiB"], "16GiB"),
        (["--fit", "lots"], "lots"),
        (["--out", "/proc/nowhere"], "/proc/nowhere"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(capsys, arguments, word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "memory", *arguments)
    assert code == 2 and out == []
    assert len(err) == 1 and err[0].startswith("error: ") and word in err[0]


def test_the_command_explains_itself(capsys):
    code, out, _ = run(capsys, "memory", "--help")
    assert code == 0
    assert all(flag in " ".join(out) for flag in ("--seed", "--out", "--json", "--fit", "--no-checkpointing"))
