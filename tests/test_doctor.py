"""The doctor on made-up curves whose fault is plain, on healthy ones, and on what is no run at all."""

import json
import math
import random

import numpy
import pytest

from grpo_teach import InputError
from grpo_teach.__main__ import main
from grpo_teach.clinic.doctor import TEXTS, Finding, Run, examine, read_run
from grpo_teach.clinic.signs import SIGNS

CONFIG = {"algorithm": "GRPO", "dtype": "torch.float32", "epochs": 1, "minibatches": 1, "max_new_tokens": 32}
CONFIG |= {"max_grad_norm": 1.0, "prompts": 16, "group_size": 16}


def healthy(steps=40, seed=0, **curves) -> list[dict]:
    """Rows of a run that climbs from 0.2 to 0.95, with the noise of 256 answers; ``curves`` replace its own."""
    at, noisy = numpy.arange(steps), numpy.random.default_rng(seed)
    rise = 1 / (1 + numpy.exp(-(at - steps / 3) / (steps / 10)))
    noise = lambda scale: noisy.normal(scale=scale, size=steps)  # noqa: E731
    own = {"step": at, "reward": 0.2 + 0.75 * rise + noise(0.02), "length": 7 + 20 * rise + noise(0.4)}
    own |= {
        "thinks": 0.2 + 0.8 * rise,
        "entropy": 0.35 - 0.33 * rise + abs(noise(0.005)),
        "old_kl": numpy.full(steps, 1e-14),
    }
    own |= {"kl": numpy.where(at, 0.1 * rise, 3e-14), "mixed_groups": 1 - 0.5 * rise}
    own |= {"grad_norm": 0.6 - 0.4 * rise, "clip_fraction": numpy.zeros(steps), "loss": noise(0.5)}
    own |= {name: numpy.broadcast_to(values, steps) for name, values in curves.items()}
    own["accuracy"] = own.get("accuracy", 0.2 + 0.75 * rise)
    rows = [{name: float(values[i]) for name, values in own.items()} for i in range(steps)]
    for i, row in enumerate(rows):
        accuracy = row.pop("accuracy")
        if i % 10 == 0:
            row["evaluation"] = {"accuracy": accuracy, "mean_length": float(7 + 20 * rise[i]), "problems": 256}
    return rows


def written(folder, rows, config=CONFIG):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if config is not None:
        (folder / "manifest.json").write_text(json.dumps({"config": config, "seed": 0}))
    return folder


@pytest.fixture
def signs(tmp_path):
    """The signs that a run with these rows shows."""

    def seen(rows, config=CONFIG):
        return [found.sign for found in examine(read_run(written(tmp_path / "run", rows, config)))]

    return seen


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("steps", [1, 3, 8, 12, 40, 200])
def test_a_healthy_run_shows_nothing_however_long_it_is(signs, steps, seed):
    assert signs(healthy(steps, seed)) == []


@pytest.mark.parametrize("algorithm", ["GRPO", "PPO", "policy gradient", "SFT, rejection sampling"])
def test_of_any_algorithm_and_with_any_columns_missing(signs, algorithm):
    rows = healthy(loss=0.1)
    assert signs(rows, CONFIG | {"algorithm": algorithm}) == []
    for name in rows[0]:
        fewer = [{key: value for key, value in row.items() if key != name} for row in rows]
        assert signs(fewer, CONFIG | {"algorithm": algorithm}) == [], name
    assert signs(rows, None) == [] and signs(rows, {}) == []


def late(before, after, steps=40, since=20):
    return numpy.where(numpy.arange(steps) < since, before, after)


DOWN, UP = numpy.linspace(0.3, 0.02, 40), numpy.linspace(0.2, 0.95, 40)
WOBBLE = 0.2 + 0.02 * numpy.sin(numpy.arange(40) * 2.4)  # neither up nor down


@pytest.mark.parametrize(
    ("sign", "curves"),
    [
        ("not_finite", {"grad_norm": late(0.5, math.nan)}),
        ("not_finite", {"loss": late(0.5, math.inf)}),
        ("scoring_differs", {"old_kl": 1e-4}),
        ("scoring_differs", {"old_kl": late(1e-14, 0.01, since=1)}),
        ("nothing_paid", {"reward": 0.0, "accuracy": 0.0}),
        ("nothing_paid", {"reward": late(0.3, 0.0, since=2), "accuracy": 0.0}),
        ("nothing_paid", {"reward": 1.0, "accuracy": 1.0}),
        ("no_gradient", {"grad_norm": 0.0}),
        ("reward_falls", {"reward": DOWN, "accuracy": DOWN}),
        ("accuracy_falls", {"accuracy": DOWN}),
        ("kl_at_rest", {"kl": 1e-14}),
        ("kl_at_rest", {"kl": 0.0}),
        ("kl_far", {"kl": late(0.1, 5.0)}),
        ("gradient_always_cut", {"grad_norm": 20.0}),
        ("gradient_grows", {"grad_norm": numpy.geomspace(0.1, 9, 40)}),
        ("entropy_gone", {"entropy": late(0.4, 0.001), "reward": WOBBLE, "accuracy": 0.2}),
        ("entropy_rises", {"entropy": numpy.linspace(0.4, 1.2, 40), "reward": WOBBLE, "accuracy": 0.2}),
        ("length_at_limit", {"length": 32.0, "reward": WOBBLE, "accuracy": 0.2}),
        ("thinking_dies", {"thinks": numpy.linspace(0.5, 0.0, 40), "reward": WOBBLE, "accuracy": 0.2}),
        ("few_mixed_groups", {"mixed_groups": 0.02, "reward": WOBBLE / 10, "accuracy": 0.02}),
        ("graded_otherwise", {"accuracy": 0.1}),
        ("length_otherwise", {"length": 5.0}),
        ("paid_not_right", {"accuracy": 0.2}),
        ("no_progress", {"reward": WOBBLE, "accuracy": 0.2}),
    ],
)  # fmt: skip
def test_a_plain_fault_is_named(signs, sign, curves):
    assert sign in signs(healthy(**curves))


def test_sixteen_bits_are_allowed_their_rounding_and_no_more(signs):
    half = CONFIG | {"dtype": "torch.bfloat16"}
    assert signs(healthy(old_kl=1e-3), half) == []
    assert signs(healthy(old_kl=0.5), half) == ["scoring_differs"]
    noise = 1e-4 * (1.5 + numpy.sin(numpy.arange(40) + 2))
    assert signs(healthy(kl=noise), half) == ["kl_at_rest"]


def test_several_steps_a_batch_may_move_away_but_not_far(signs):
    several = CONFIG | {"epochs": 4}
    assert signs(healthy(old_kl=0.02, clip_fraction=0.2), several) == []
    assert signs(healthy(old_kl=0.02, clip_fraction=0.7), several) == ["far_from_samples"]
    assert signs(healthy(old_kl=2.0), several) == ["far_from_samples"]
    off = numpy.where(numpy.arange(40), 0.1, 8.0)  # scored otherwise than sampled: the reference's is, too
    assert signs(healthy(kl=off), several) == ["scoring_differs"]


def test_an_adapter_that_had_learnt_before_starts_away_from_its_reference(signs):
    assert signs(healthy(kl=0.3), CONFIG | {"lora_alpha": 32}) == []


def test_sft_has_a_likelihood_and_the_others_have_not(signs):
    assert signs(healthy(loss=-0.1), CONFIG | {"algorithm": "SFT, rejection sampling"}) == ["negative_likelihood"]
    assert signs(healthy(loss=-0.1)) == []


def test_a_run_that_was_solved_may_end_in_equal_rewards(signs):
    reward = numpy.minimum(1.0, numpy.linspace(0.2, 2.0, 40))
    assert signs(healthy(reward=reward, accuracy=reward, mixed_groups=1 - reward, grad_norm=1 - reward)) == []


def test_a_sure_base_may_grow_less_sure_as_it_learns_and_a_good_one_surer_without_learning(signs):
    assert signs(healthy(entropy=numpy.linspace(0.05, 0.15, 40))) == []
    assert signs(healthy(entropy=late(0.1, 0.001), reward=0.7 + WOBBLE, accuracy=0.9)) == []


def test_a_few_answers_prove_nothing(signs):
    few, sure = CONFIG | {"prompts": 2, "group_size": 4}, {"entropy": 0.3, "accuracy": 0.0}
    assert signs(healthy(10, reward=0.0, mixed_groups=0.0, **sure), few) == []
    assert signs(healthy(80, reward=0.0, mixed_groups=0.0, **sure), few) == ["nothing_paid"]
    assert signs(healthy(10, mixed_groups=0.0, reward=numpy.arange(10) % 2 / 8, **sure), few) == []


def test_an_unknown_run_without_a_step_shows_nothing():
    assert examine(Run([])) == examine(Run([{}])) == []


def test_a_critics_warm_up_needs_no_policy_gradient(signs):
    warm = {"grad_norm": late(0.0, 0.5, since=5)}
    assert signs(healthy(12, grad_norm=warm["grad_norm"][:12]), CONFIG | {"critic_warmup": 5}) == []


def test_without_a_reference_what_does_not_move_is_seen_in_the_other_curves(signs):
    still = {"reward": WOBBLE, "length": 7 + WOBBLE, "entropy": WOBBLE, "accuracy": 0.2}
    rows = [{k: v for k, v in row.items() if k != "kl"} for row in healthy(**still)]
    assert "nothing_moves" in signs(rows)


def test_another_reward_is_not_held_against_the_grade(signs):
    rows = healthy(reward=5 * UP)
    assert "graded_otherwise" in signs(rows)
    assert signs(rows, CONFIG | {"reward": "mine"}) == []


def test_rewards_may_be_negative(signs):
    assert signs(healthy(reward=UP - 1), CONFIG | {"reward": "mine"}) == []
    assert "reward_falls" in signs(healthy(reward=-UP, accuracy=0.5), CONFIG | {"reward": "mine"})


def test_the_noise_is_read_off_successive_differences():
    """A line has none: its mean squared difference is its slope's, and that shrinks with the steps."""
    values = [0.0, 1.0] * 10  # noise of 1/2 in standard deviation: mean squared difference 1, half of it a variance
    run = Run([{"reward": value} for value in values + [value + 1 for value in values]])
    expected = 1.0 / math.sqrt(2 * (39 / 39 / 2) / 8)  # successive differences: 38 of size 1, one of size 0 …
    assert run.ends("reward") == (0.5, 1.5)
    assert run.change("reward") == pytest.approx(expected, rel=0.05)


def test_every_sign_has_its_text_and_no_text_is_without_a_sign():
    assert TEXTS.keys() == SIGNS.keys()
    for name in SIGNS:
        about = Finding(name, "").as_dict()
        assert about["says"].endswith(".") and len(about["causes"]) >= 2 and "chapter" in about["see"]


ANYTHING = [None, True, 0, -1, 10**400, 1e308, -1e-300, math.nan, math.inf, 0.5, 3, "x", [1], {}]


@pytest.mark.parametrize("seed", range(100))
def test_nothing_that_is_json_makes_it_raise(tmp_path, seed):
    draw = random.Random(seed)
    names = [*healthy(1)[0], "tokens", "evaluation"]
    rows = [{name: draw.choice(ANYTHING) for name in draw.sample(names, 9)} for _ in range(draw.randrange(60))]
    folder = written(tmp_path / "any", rows, {name: draw.choice(ANYTHING) for name in CONFIG})
    try:
        found = examine(read_run(folder))
    except InputError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert all(finding.evidence for finding in found)


# The command ------------------------------------------------------------------------------------------------------


def run(capsys, *arguments):
    try:
        code = main([*map(str, arguments)])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_names_sign_evidence_causes_and_chapter(capsys, tmp_path):
    good, bad = written(tmp_path / "good", healthy()), written(tmp_path / "bad", healthy(old_kl=1e-3))
    code, out, err = run(capsys, "doctor", good, bad / "metrics.jsonl", "--json")
    assert (code, err) == (0, "")
    assert "Nothing looks wrong" in out and "old_kl is 0.001 nats a token" in out and "off by one" in out
    first, second = json.loads(out.splitlines()[-1])["runs"]
    assert (first["steps"], first["findings"]) == (40, [])
    (finding,) = second["findings"]
    assert finding["sign"] == "scoring_differs" and finding["causes"] and "chapter" in finding["see"]


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\n\n", b"not json\n", b'{"step": 0', b"[1, 2]\n", b"\xff\xfe\x00", b'{"a": 1}\n', b"[" * 100_000),
        b'{"reward": 1}\nrubbish\n{"reward": 1}\n',
        b'{"reward": 1, "evaluation": 3}\n{"reward": 1}\n',
    ],
)
def test_what_is_no_run_is_one_line_and_exit_code_2(capsys, tmp_path, content):
    (tmp_path / "metrics.jsonl").write_bytes(content)
    code, out, err = run(capsys, "doctor", tmp_path)
    assert (code, out, len(err.splitlines())) == (2, "", 1) and err.startswith("error: ")


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_a_damaged_manifest_too(capsys, tmp_path, content):
    (written(tmp_path, healthy()) / "manifest.json").write_bytes(content)
    assert run(capsys, "doctor", tmp_path)[0] == 2


def test_nothing_there_too(capsys, tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        code, _, err = run(capsys, "doctor", path)
        assert code == 2 and len(err.splitlines()) == 1


def test_a_last_line_that_a_kill_cut_short_is_left_out(capsys, tmp_path):
    path = written(tmp_path, healthy()) / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert "39 steps of GRPO" in run(capsys, "doctor", tmp_path)[1]
