"""``python -m grpo_teach memory`` as a user meets it."""

import json
import re

import huggingface_hub
import pytest
from test_cli import run

from grpo_teach.memory import TERMS
from grpo_teach.memory.grid import GRIDS, config_of


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


def test_a_measurement_stands_beside_the_prediction(capsys, tmp_path):
    pytest.importorskip("accelerate")
    config_of("llama-untied").save_pretrained(tmp_path)
    sizes = ["--prompts", 2, "--group-size", 2, "--prompt-tokens", 8, "--max-new-tokens", 6, "--dtype", "float32"]
    flags = [*sizes, "--method", "full", "--optimizer", "adamw", "--measure", "--device", "cpu", "--json"]
    code, out, err = run(capsys, "memory", "--model", tmp_path, "--out", tmp_path, *flags)
    result = json.loads(out[-1])
    assert code == 0 and err == []  # the process that measures writes its progress by itself
    assert {"sampling", "update"} < set(result["phases"]["measured"])
    assert set(result["measured_bytes"]) == set(result["predicted_bytes"]) - {"activations", "logits", "kv_cache"}
    assert result["measured_bytes"]["total"] == pytest.approx(result["predicted_bytes"]["total"], rel=0.05)
    assert result["measured_peak_phase"] == result["peak_phase"] and result["instrument"]
    rows = {line.split()[0]: line.split() for line in out[-14:] if line.split()}
    assert float(rows["update"][1]) > 0 and rows["weights"][-1].strip("-") == "0.0%"
    assert json.loads((tmp_path / "memory.json").read_text())["measured_bytes"] == result["measured_bytes"]


def test_what_a_measurement_refuses_is_one_line(capsys):
    code, _, err = run(capsys, "memory", "--measure", "--device", "cpu", "--cap", "1GiB", "--quiet")
    assert code == 2 and len(err) == 1 and "a cap is" in err[0]


def test_a_grid_prints_a_line_a_set_up(capsys, tmp_path, monkeypatch):
    found = [{"bytes": {"total": 2**20}, "phases": {"update": 2**20}, "seconds": 1.0, "instrument": "none"}]
    found += [{"instrument": "none", "out_of_memory": "sampling"}]
    monkeypatch.setattr("grpo_teach.memory.grid.measure_apart", lambda *arguments: found.pop(0))
    monkeypatch.setitem(GRIDS, "small", GRIDS["small"][:2])
    code, out, _ = run(capsys, "memory", "--grid", "small", "--cap", "1GiB", "--json", "--out", tmp_path)
    result = json.loads(out[-1])
    assert code == 0 and result["runs"] == 2 and result["measured"] == 1 and result["largest_difference"] > 1
    assert "[update] llama-tied" in out[1] and "out of memory [sampling]" in out[2]
    assert [row["cap"] for row in json.loads((tmp_path / "memory.json").read_text())["runs"]] == [2**30] * 2


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
        (["--cap", "16GiB"], "--cap belongs"),
        (["--device", "cpu"], "--device belongs"),
        (["--grid", "huge"], "huge"),
        (["--grid", "small", "--out", "/proc/nowhere"], "/proc/nowhere"),
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
