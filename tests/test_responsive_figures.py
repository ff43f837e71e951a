"""The figures that respond compute what the package computes, and need nothing but themselves."""

import importlib.util
import itertools
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
import torch

from grpo_teach import ChainSum, clipped_policy_loss, gae, group_relative_advantages, kl_k1, kl_k2, kl_k3
from grpo_teach.figures import responsive
from grpo_teach.figures.replay import replay
from grpo_teach.records import load_record

spec = importlib.util.spec_from_file_location("replay", Path(__file__).parents[1] / "benchmarks/replay.py")
recorder = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recorder)

TOKENS, LOGITS = ["<think>", "7", "</script>", "="], [2.0, 1.0, 0.0, -30.0]
WORD, VALUES, REWARDS = ["<think>", "4", ";", "4"], [0.3, 0.7, 0.2, 0.4], [0.0, -0.1, 0.0, 1.0]
PAGES = {
    "clip": responsive.clip_explorer(),
    "group": responsive.group_explorer(),
    "kl": responsive.kl_explorer(),
    "gae": responsive.gae_explorer(WORD, VALUES, REWARDS, wrong=1),
    "temperature": responsive.temperature_explorer(TOKENS, LOGITS),
    "replay": replay(),
}
PAGES = {name: page.data for name, page in PAGES.items()}
RIGHT_ONE = [0.0] * 7 + [1.0]


def computed(name: str, expression: str):
    """What the page's own functions make of an expression, run by node."""
    if not shutil.which("node"):
        pytest.skip("needs node, to run the pages' own functions")
    (mathematics,) = re.findall(r"// The mathematics.*?(?=// The page\.)", PAGES[name], flags=re.DOTALL)
    code = f"{mathematics}\nconsole.log(JSON.stringify({expression}))"
    return json.loads(subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True).stdout)


def slope(function, x: torch.Tensor) -> list[float]:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0].flatten().tolist()


def numbers(*values) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


# The mathematics --------------------------------------------------------------------------------------------------


def test_the_clip_is_the_losses_and_its_gradient_autograds():
    ratios, clips = [0.07, 0.5, 0.77, 1.0, 1.13, 1.33, 2.5], [(0.2, 0.2), (0.2, 0.28), (0.0, 0.0), (0.6, 0.05)]
    cases = [
        (ratio, advantage, *clip)
        for ratio, advantage, clip in itertools.product(ratios, (1, -1), clips)
        if min(abs(ratio - 1 + clip[0]), abs(ratio - 1 - clip[1])) > 1e-3  # at a kink there is no one gradient
    ]
    found = computed("clip", f"{json.dumps(cases)}.map(([r, a, low, high]) => clip(r, a, low, high))")
    for (ratio, advantage, low, high), page in zip(cases, found, strict=True):
        logprobs, sign = numbers(ratio).log(), numbers(float(advantage))

        def objective(logprobs, sign=sign, clip=(low, high)):
            return -clipped_policy_loss(logprobs, torch.zeros_like(logprobs), sign, *clip)

        assert page["objective"] == pytest.approx(objective(logprobs).item())
        assert page["gradient"] == pytest.approx(slope(objective, logprobs)[0])
    assert len(cases) > 40 and sum(page["gradient"] == 0 for page in found) > 10


def test_a_bad_token_at_half_its_probability_has_no_gradient_and_a_good_one_has():
    bad, good, worse = computed("clip", "[clip(0.5, -1, 0.2, 0.2), clip(0.5, 1, 0.2, 0.2), clip(2, -1, 0.2, 0.2)]")
    assert bad == {"objective": -0.8, "gradient": 0} and good == {"objective": 0.5, "gradient": 0.5}
    assert worse == {"objective": -2, "gradient": -2}


@pytest.mark.parametrize("scale", ["std", "none"])
def test_every_group_of_eight_gets_the_packages_advantages(scale):
    groups = list(itertools.product([0, 1], repeat=8))
    found = computed("group", f'{json.dumps(groups)}.map(rewards => group(rewards, "{scale}"))')
    rewards = torch.tensor(groups, dtype=torch.float64)
    expected = zip(
        group_relative_advantages(rewards, scale).tolist(),
        rewards.mean(1).tolist(),
        rewards.std(1).tolist(),
        strict=True,
    )
    for page, (advantages, mean, std) in zip(found, expected, strict=True):
        assert page["advantages"] == pytest.approx(advantages)
        assert (page["mean"], page["std"]) == pytest.approx((mean, std))
    assert not any(found[0]["advantages"]) and not any(found[-1]["advantages"])


def test_the_three_estimates_and_their_slopes():
    d = [-2.5, -0.7, 0.0, 0.05, 1.0, 2.5]
    found, reference = computed("kl", f"{json.dumps(d)}.map(estimates)"), numbers(*d) - 1.3
    for name, estimate in {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}.items():
        logprobs = torch.full_like(reference, -1.3)
        values = estimate(logprobs, reference)[0].tolist()
        slopes = slope(lambda x, estimate=estimate: estimate(x, reference), logprobs)
        assert [page[name]["value"] for page in found] == pytest.approx(values)
        assert [page[name]["slope"] for page in found] == pytest.approx(slopes)


def test_the_advantages_of_tokens_are_gaes():
    for gamma, lam in itertools.product((0.0, 0.5, 1.0), (0.0, 0.35, 0.95, 1.0)):
        found = computed("gae", f"gae({REWARDS}, {VALUES}, {gamma}, {lam})")
        rewards, values = numbers(*REWARDS), numbers(*VALUES)
        advantages, _ = gae(rewards, values, torch.ones_like(values), gamma, lam)
        assert found == pytest.approx(advantages[0].tolist())


@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
def test_the_next_tokens_probabilities_and_their_entropy(temperature):
    expected = torch.distributions.Categorical(logits=numbers(*LOGITS)[0] / temperature)
    shares = computed("temperature", f"softmax({LOGITS}, {temperature})")
    assert shares == pytest.approx(expected.probs.tolist())
    assert computed("temperature", f"entropy({shares})") == pytest.approx(float(expected.entropy()))
    assert computed("temperature", "entropy([1, 0])") == 0  # a token that never comes adds nothing


# The recorded run -------------------------------------------------------------------------------------------------


def test_the_recorded_answers_are_graded_by_the_task_and_the_run_learns():
    record, task = load_record("replay"), ChainSum()
    (run,), how = record["runs"], record["manifest"]["config"]
    assert "dirty" not in record["manifest"]["commit"]
    assert [tuple(question) for question in run["questions"]] == task.test_set(3)
    assert [look["step"] for look in run["looks"]] == list(range(0, how["steps"] + 1, how["every"]))
    for look in run["looks"]:
        assert look["right"] == [task.right(*pair) for pair in zip(look["answers"], task.test_set(3), strict=True)]
    first, last = run["looks"][0], run["looks"][-1]
    assert "a demonstration, and no result" in PAGES["replay"]
    assert first["accuracy"] < 0.5 < 0.8 < last["accuracy"] and first["length"] < last["length"] <= 32


def test_looking_more_often_changes_nothing_in_the_training():
    often, seldom = (
        recorder.record_run(steps=2, every=every, shown=2, problems=128)["runs"][0]["looks"] for every in (1, 2)
    )
    assert [look["step"] for look in often] == [0, 1, 2] and often[::2] == seldom


# The pages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_small_asks_no_one_and_names_its_parts(name):
    page = PAGES[name]
    assert len(page) < (30_000 if name == "replay" else 12_000)
    assert not re.search(r"https?:|src=|import\(|fetch\(|FIGURE_", page.replace("http://www.w3.org/2000/svg", ""))
    assert page.count(f'id="{name}"') == 1 and f'getElementById("{name}")' in page
    assert page.count("<script>") == page.count("</script>") == 1  # a token's text ends no script
    parts = page.split("<script>")[0]
    assert '<svg role="img"></svg>' in parts
    (said,) = re.findall(r'<p class="says" aria-live="polite">(.+?)</p>', parts)
    assert "JavaScript" in said and len(said) > 100  # what is read where scripts do not run
    for field in re.findall(r"<input[^>]*>", parts):
        assert re.search(r"<label[^>]*>(?:(?!</label>).)*" + re.escape(field), parts), "a name for those who hear it"


DRIVER = """<pre id="report"></pre><script>
const report = {}, form = id => document.querySelector(`#${id} form`);
const note = (as, id) => { report[as] = document.querySelector(`#${id} .says`).textContent; };
const set = (as, id, values) => {
  for (const [name, value] of Object.entries(values)) form(id).elements[name].value = value;
  form(id).dispatchEvent(new Event("input", {bubbles: true}));
  note(as, id);
};
const press = (as, id, place = 0) => { form(id).querySelectorAll("button")[place].click(); note(as, id); };
for (const id of IDS) note(id, id);
set("good", "clip", {advantage: 1});
set("wide", "clip", {advantage: 1, ratio: 1.5, high: 0.6});
press("dead", "group");
press("other", "group", 7);
set("undivided", "group", {scale: "none"});
set("alike", "kl", {d: 0});
set("one step", "gae", {lam: 0, gamma: 0.5});
set("cold", "temperature", {temperature: 0.5});
set("start", "replay", {look: 0});
press("played", "replay");
report.button = form("replay").querySelector("button").textContent;
press("paused", "replay");
report.label = document.querySelector("#replay svg").getAttribute("aria-label");
report.drawn = IDS.map(id => document.querySelector(`#${id} svg`).children.length);
document.getElementById("report").textContent = JSON.stringify(report);
</script>"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What the text lines say in a browser, before and after each control was moved."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("needs Chromium, to move the pages' controls")
    folder = tmp_path_factory.mktemp("browser")
    html = "".join(PAGES.values()) + DRIVER.replace("IDS", json.dumps(list(PAGES)))
    (folder / "all.html").write_text(f'<!doctype html><meta charset="utf-8">{html}', encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    done = subprocess.run([browser, *flags, (folder / "all.html").as_uri()], capture_output=True, text=True)
    return json.loads(unescape(re.search(r'<pre id="report">(.*?)</pre>', done.stdout, flags=re.DOTALL).group(1)))


def test_each_control_changes_what_its_figure_says(said):
    bad, good, wide = said["clip"], said["good"], said["wide"]
    assert "A = −1, ratio 0.50, below the range" in bad and "log π: 0.00, no gradient" in bad
    assert "log π: +0.50, pushes on: the token is made more likely" in good
    assert "ratio 1.50, inside the range" in wide and "+1.50, pushes on" in wide

    right, wrong = (
        f"{a:+.2f}".replace("-", "−") for a in group_relative_advantages(torch.tensor([RIGHT_ONE]))[0][[7, 0]]
    )
    for text in (said["group"], said["other"]):
        assert f"Each right answer gets {right}, each wrong one {wrong}." in text and text.startswith("1 of 8 right")
    assert "0 of 8 right: mean 0.000" in said["dead"] and "teaches nothing" in said["dead"]
    assert "gets +0.875, each wrong one −0.125" in said["undivided"]  # 1 − 1/8 and −1/8

    assert "k1 −2.00 (slope 1.00), k2 2.00 (slope −2.00), k3 4.39 (slope −6.39)" in said["kl"]
    assert "alike. k1 0.00 (slope 1.00), k2 0.00 (slope 0.00), k3 0.00 (slope 0.00)" in said["alike"]

    def first(gamma, lam):
        advantages = gae(numbers(*REWARDS), numbers(*VALUES), torch.ones(1, 4), gamma, lam)[0][0]
        return f"token 1 (<think>) gets {advantages[0]:+.2f}".replace("-", "−")

    assert first(1.0, 0.95) in said["gae"] and first(0.5, 0.0) in said["one step"]
    assert "the first wrong one, token 2 (4)" in said["gae"]
    for text, temperature in ((said["temperature"], 1.0), (said["cold"], 0.5)):
        probs = torch.softmax(numbers(*LOGITS)[0] / temperature, dim=0)
        assert f"<think>, has {100 * probs[0]:.1f}%" in text

    first, second = load_record("replay")["runs"][0]["looks"][:2]
    for text, look in ((said["start"], first), (said["played"], second)):
        assert text.startswith(f"After step {look['step']}: {100 * look['accuracy']:.1f}% right")
    assert said["button"] in ("Pause", "Next") and said["label"] == said["paused"]
    assert all(children > 10 for children in said["drawn"])
