"""The calculator shows the ledger's numbers, and needs nothing but itself."""

import itertools
import json
import re
from dataclasses import replace

import pytest

from grpo_teach.figures import calculator
from grpo_teach.figures.curves import TERM_COLOURS
from grpo_teach.large import SHAPES, model_config
from grpo_teach.memory import Setup, Shape, predict

SHAPE = {name: Shape.of(model_config(name)) for name in SHAPES}
PHASES = ("sampling", "scoring", "update")
PAGE = calculator.calculator("here").data
DATA = json.loads(re.search(r"const data = (\{.*\}), box = ", PAGE).group(1))


def shown(model, critic, method, optimizer, copies, sizes) -> list[int]:
    """The MiB of each phase, added up as the page's script adds them."""
    place = (list(SHAPES).index(model) * 4 + ["none", "head", "lora", "separate"].index(critic)) * 4 + method
    stays, works = DATA["grid"][place]
    row = 0
    for options, value in zip(DATA["sizes"].values(), sizes, strict=True):
        row = row * len(options) + options.index(value)
    fixed = stays[0] + stays[1] + copies * (stays[2] + stays[3]) + stays[4 + optimizer]
    phases = (0, 1 if copies or critic == "none" else 3, 2)  # scoring without copies comes last
    return [fixed + sum(works[(row * 4 + i) * 4 : (row * 4 + i + 1) * 4]) for i in phases]


@pytest.mark.parametrize("critic", ["none", "head", "lora", "separate"])
@pytest.mark.parametrize("model", SHAPES)
def test_every_phase_is_what_the_ledger_predicts(model, critic):
    shape = SHAPE[model]
    methods = [("full", "float32"), ("full", "bfloat16"), ("lora", "bfloat16"), ("qlora", "bfloat16")]
    some = [(True, 4, 256, 1), (False, 8, 512, 4), (True, 32, 2048, 8), (True, 16, 1024, 4), (False, 4, 256, 8)]
    for (i, (method, dtype)), sizes, optimizer, copies in itertools.product(enumerate(methods), some, (0, 1), (0, 1)):
        if (method, critic) in (("full", "lora"),):
            continue
        setup = Setup(shape, "grpo" if critic == "none" else "ppo", method, critic, dtype=dtype)
        checkpointing, group, length, rows = sizes
        setup = replace(setup, checkpointing=checkpointing, group_size=group, max_new_tokens=length, rows_a_pass=rows)
        setup = replace(setup, optimizer=("adamw", "adamw8bit")[optimizer])
        if copies:
            setup = replace(setup, reference="copy", reward_model="same")
        expected = predict(setup).phases
        found = shown(model, critic, i, optimizer, copies, sizes)
        assert expected.keys() >= {"sampling", "update"} and ("scoring" in expected or (critic, copies) == ("none", 0))
        for phase, mib in zip(PHASES, found, strict=True):
            if phase in expected:  # nine terms, each rounded to a MiB
                assert mib == pytest.approx(expected[phase] / 2**20, abs=5)


def test_a_critic_on_an_adapter_is_offered_only_where_there_is_one():
    missing = [i for i, entry in enumerate(DATA["grid"]) if entry is None]
    assert missing == [16 * model + 8 + method for model in (0, 1) for method in (0, 1)]


def test_the_page_is_small_and_asks_no_one():
    assert len(PAGE) < 300_000
    assert not re.search(r"https?:|src=|import\(|fetch\(|DATA|\bID\b", PAGE.replace("http://www.w3.org", ""))
    assert 'id="here"' in PAGE and 'getElementById("here")' in PAGE
    before_the_script = PAGE.split("<script>")[0]
    assert "python -m grpo_teach memory" in before_the_script  # what is read where scripts do not run
    assert list(DATA["colours"]) == list(TERM_COLOURS)
