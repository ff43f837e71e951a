"""The policy in the page is the policy of the package: log-probs, gradients, rewards and sampling, run by node."""

import copy
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from grpo_teach import ChainSum, aggregate, clipped_policy_loss, group_relative_advantages, load_base, sample, score
from grpo_teach.figures.page_policy import BASE, PARTS, kit, packed, panel, script
from grpo_teach.records import load_record
from grpo_teach.rewards.rules import accuracy

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed: the page's code cannot be run here")


@pytest.fixture(scope="module")
def base():
    return load_base(BASE)


def in_page(body: str, **given):
    """What a function body returns, with the page's functions and the given values by name."""
    names = f"{{{', '.join(PARTS)}}} = ({kit()})(), {{{', '.join(given)}}}"
    code = f"const {names} = JSON.parse(require('fs').readFileSync(0));"
    unpack = (
        "const policyOf = ({shape, weights}) => new Policy(shape, Float32Array.from(weights));"
        f"process.stdout.write(JSON.stringify((() => {{ {body} }})()));"
    )
    done = subprocess.run([NODE, "-e", code + unpack], input=json.dumps(given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def whole(policy, tokenizer) -> dict:
    """A policy with all its bits."""
    return {"shape": packed(policy, tokenizer)["shape"], "weights": flat(policy.parameters()).tolist()}


def flat(tensors) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def rows_of(rollouts, **columns):
    """Rollouts as the page holds them: without padding."""
    rows, lengths = [], rollouts.lengths.tolist()
    for b, length in enumerate(lengths):
        prompt = rollouts.prompt_ids[b][rollouts.prompt_mask[b].bool()].tolist()
        row = {"prompt": prompt, "completion": rollouts.completion_ids[b, :length].tolist()}
        rows.append(row | {name: values[b, :length].tolist() for name, values in columns.items()})
    return rows


@needs_node
def test_log_probs_from_the_shipped_bits_agree_with_python_over_a_hundred_prompts(base):
    policy, tokenizer = base
    prompts = [problem.prompt for problem in ChainSum((3, 5, 7)).test_set(100)]
    torch.manual_seed(0)
    rollouts = sample(policy, tokenizer, prompts)
    right = score(policy, rollouts).detach()
    page = in_page(
        """const policy = Policy.unpack(shipped);
        return rows.map(row => score(policy, row.prompt, row.completion));""",
        shipped=packed(policy, tokenizer),
        rows=rows_of(rollouts),
    )
    for b, row in enumerate(page):
        assert torch.tensor(row) == pytest.approx(right[b, : len(row)], abs=1e-3)


@needs_node
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_gradient_of_a_batch_agrees_with_autograd(base, temperature):
    policy, tokenizer = base
    torch.manual_seed(1)
    rollouts = sample(policy, tokenizer, ["7+5+8=", "1+2+3+4+5="], group_size=4, temperature=temperature)
    old = (rollouts.old_logprobs + 0.3 * torch.randn_like(rollouts.mask)) * rollouts.mask  # some ratios leave the clip
    advantages = torch.randn(8, 1)
    advantages[3] = 0.0
    logprobs = score(policy, rollouts, temperature)
    token_loss = clipped_policy_loss(logprobs, old, advantages.expand_as(old))
    right = torch.autograd.grad(aggregate(token_loss, rollouts.mask, "token_mean"), list(policy.parameters()))
    rows = rows_of(rollouts, logprobs=old)
    for row, advantage in zip(rows, advantages.flatten().tolist(), strict=True):
        row["advantage"] = advantage
    page = in_page(
        """rows.forEach((row, i) => { row.prompt = rows[4 * Math.floor(i / 4)].prompt; }); // a group shares its prompt
        return Array.from(gradientOf(policyOf(policy), rows, {temperature}));""",
        policy=whole(policy, tokenizer), rows=rows, temperature=temperature,
    )  # fmt: skip
    assert torch.tensor(page) == pytest.approx(flat(right), abs=1e-5)
    assert flat(right).abs().max() > 0.01


@needs_node
def test_the_sampler_draws_what_it_says_it_draws(base):
    """Noted log-probs are the scorer's, and a first token comes up as often as its probability says."""
    policy, tokenizer = base
    page = in_page(
        """const p = policyOf(policy), prompt = p.encode("7+5+8+3+9=");
        const rows = sample(p, [prompt], {groupSize: 4000, longest: 2, temperature: 1.5, random: randomFrom(3)});
        const few = sample(p, [prompt, p.encode("1+2=")], {groupSize: 3, temperature: 0.8, random: randomFrom(4)});
        const again = few.map(row => score(p, row.prompt, row.completion, 0.8));
        return {first: rows.map(row => row.completion[0]), few, again};""",
        policy=whole(policy, tokenizer),
    )
    with torch.no_grad():
        logits = policy(**tokenizer(["7+5+8+3+9="], return_tensors="pt", return_token_type_ids=False)).logits[0, -1]
    p = torch.softmax(logits / 1.5, dim=-1)
    seen = torch.bincount(torch.tensor(page["first"]), minlength=len(p)) / 4000
    assert ((seen - p).abs() <= 4.5 * (p * (1 - p) / 4000).sqrt() + 1e-3).all()
    for row, again in zip(page["few"], page["again"], strict=True):
        assert row["logprobs"] == pytest.approx(again, abs=1e-4)
        end = tokenizer.eos_token_id
        assert end not in row["completion"][:-1] and (row["completion"][-1] == end or len(row["completion"]) == 32)


@needs_node
def test_rewards_and_advantages_are_the_packages():
    texts = ["2", "<think>7+5=2;</think>2", "<think>2", "22", "", "2</think>", "<think></think>5</think>2", "</think>2"]
    rewards = [[1.0, 0.0, 0.0, 1.0], [1.0] * 4, [0.0] * 4, [0.0, 0.0, 0.0, 1.0]]
    page = in_page(
        "return [texts.map(text => reward(text, '2')), groups.map(advantages)];", texts=texts, groups=rewards
    )
    assert page[0] == [accuracy(text, "2") for text in texts]
    assert torch.tensor(page[1]) == pytest.approx(group_relative_advantages(torch.tensor(rewards)), abs=1e-6)


@needs_node
@pytest.mark.parametrize("n, k, m", [(1, 4, 4), (3, 64, 256), (50, 256, 64), (7, 64, 17), (5, 6, 8), (300, 128, 512)])
@pytest.mark.parametrize("add", [False, True])
def test_products_of_matrices_are_torchs_with_wide_numbers_and_without(n, k, m, add):
    torch.manual_seed(0)
    a, b, out = torch.randn(n, k), torch.randn(m, k), torch.randn(n, m)
    page = in_page(
        """const [x, y, into] = [a, b, out].map(values => Float32Array.from(values));
        return Array.from(product(x, y, n, k, m, into, add));""",
        a=a.flatten().tolist(), b=b.flatten().tolist(), out=out.flatten().tolist(), n=n, k=k, m=m, add=add,
    )  # fmt: skip
    right = a @ b.T + (out if add else 0)
    assert torch.tensor(page).reshape(n, m) == pytest.approx(right, abs=1e-4)


@needs_node
def test_adam_is_torchs_with_the_gradient_cut():
    torch.manual_seed(2)
    weights, gradients = torch.randn(50), torch.randn(3, 50) * torch.tensor([[0.01], [1.0], [5.0]])
    mine = weights.clone().requires_grad_()
    optimizer = torch.optim.AdamW([mine], lr=1e-2, weight_decay=0.0)
    for gradient in gradients:
        mine.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_([mine], 1.0)
        optimizer.step()
    page = in_page(
        """const w = Float32Array.from(weights), adam = new Adam(w.length);
        for (const g of gradients) adam.step(w, Float32Array.from(g), 1e-2);
        return Array.from(w);""",
        weights=weights.tolist(), gradients=gradients.tolist(),
    )  # fmt: skip
    assert torch.tensor(page) == pytest.approx(mine.detach(), abs=1e-5)


@needs_node
def test_a_step_is_that_of_pythons_grpo_on_the_same_samples(base):
    policy, tokenizer = base
    policy = copy.deepcopy(policy)
    page = in_page(
        """const p = policyOf(policy), random = randomFrom(7), again = randomFrom(7);
        const problems = Array.from({length: 3}, () => drawProblem(again));
        const rows = sample(p, problems.map(({prompt}) => p.encode(prompt)), {groupSize: 6, random: again});
        const said = trainStep(p, new Adam(p.weights.length), {prompts: 3, groupSize: 6, random});
        return {problems, rows, said, weights: Array.from(p.weights)};""",
        policy=whole(policy, tokenizer),
    )
    paid = [accuracy(row["text"], page["problems"][b // 6]["answer"]) for b, row in enumerate(page["rows"])]
    advantages = group_relative_advantages(torch.tensor(paid).view(3, 6))
    assert (advantages != 0).any() and page["said"]["reward"] == pytest.approx(sum(paid) / 18)
    optimizer, before = torch.optim.AdamW(policy.parameters(), lr=5e-4, weight_decay=0.0), flat(policy.parameters())
    loss = 0.0  # at a ratio of 1 the clipped loss has the gradient of this one
    for row, advantage in zip(page["rows"], advantages.flatten(), strict=True):
        ids = torch.tensor([row["prompt"] + row["completion"]])
        logprobs = policy(ids).logits[0, len(row["prompt"]) - 1 : -1].log_softmax(dim=-1)
        loss = loss - advantage * logprobs.gather(1, torch.tensor(row["completion"]).unsqueeze(1)).sum()
    (loss / sum(len(row["completion"]) for row in page["rows"])).backward()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    gradient = flat(weight.grad for weight in policy.parameters())
    clear = gradient.abs() > 1e-3 * gradient.abs().max()  # a first step of Adam goes by the sign: rounding may turn it
    moved, right = torch.tensor(page["weights"]) - before, flat(policy.parameters()) - before
    assert clear.sum() > 1000 and moved[clear] == pytest.approx(right[clear], abs=2e-6)


@needs_node
def test_problems_have_right_answers_and_steps_move_the_weights(base):
    policy, tokenizer = base
    page = in_page(
        """const random = randomFrom(5), problems = Array.from({length: 200}, () => drawProblem(random));
        const p = policyOf(policy), adam = new Adam(p.weights.length), rows = [];
        for (let i = 0; i < 4; i++) rows.push(trainStep(p, adam, {prompts: 4, groupSize: 4, random}));
        return {problems, rows, moved: p.weights.some((w, i) => w !== Math.fround(policy.weights[i]))};""",
        policy=whole(policy, tokenizer),
    )
    for problem in page["problems"]:
        digits = problem["prompt"].removesuffix("=").split("+")
        assert len(digits) == 5 and problem["answer"] == str(sum(map(int, digits)) % 10)
    assert page["moved"]
    for row in page["rows"]:
        assert 0 <= row["reward"] <= 1 and 0 <= row["mixed"] <= 1 and 1 <= row["length"] <= 32


def test_the_recorded_policy_is_what_its_record_says(base):
    record = load_record("page_policy")
    run = record["runs"][0]
    assert run["after"]["interval"][0] > run["before"]["interval"][1]
    assert run["policy"]["shape"] == packed(*base)["shape"]
    assert "dirty" not in record["manifest"]["commit"]


def test_the_page_asks_no_other_host():
    for text in (script(), panel()):
        assert "fetch(" not in text and "import " not in text.replace("important", "")
        assert text.count("http") == text.count("http://www.w3.org")


def test_the_first_page_says_how_many_weights_there_are(base):
    intro = (Path(__file__).parents[1] / "book" / "intro.md").read_text(encoding="utf-8")
    assert f"model of {sum(w.numel() for w in base[0].parameters()):,} weights" in intro
