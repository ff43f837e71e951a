"""Search at test time: the tree against another library's, the counting of tokens, the learned value, the choices."""

import itertools
import math

import numpy
import pytest
import torch

import grpo_teach as gt
from grpo_teach.errors import InputError
from grpo_teach.r1 import search as search_module
from grpo_teach.r1 import value as value_module
from grpo_teach.r1.desk import Desk
from grpo_teach.r1.search import METHODS, Begun, Search, best, majority_vote, weighted_vote
from grpo_teach.r1.tree import Node, mcts, puct
from grpo_teach.r1.value import ValueModel, learned_value
from grpo_teach.rollout import from_text, sample
from grpo_teach.studies.run import KINDS
from grpo_teach.tasks.miniature import Miniature
from grpo_teach.tasks.task import Problem

PROMPTS = ["7x+4=9;", "3x+5=1;"]
TEXTS = ["<think>3:15≠wait四:八二≠wait5:59=</think>5", "4"]


@pytest.fixture(scope="module")
def base():
    return gt.load_base("miniature")


@pytest.fixture
def value(base):
    """With a head that is not 0."""
    model = ValueModel(*base)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.head.weight, std=0.1)
    torch.nn.init.normal_(model.head.bias)
    return model.eval()


def desk_of(base, value, budget, prompts=PROMPTS, longest=64):
    return Desk(*base, value, prompts, budget, longest)


# The choice of an answer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answers, chosen",
    [
        (["3"], "3"),
        (["2", "1"], "2"),
        (["1", "2", "2"], "2"),
        (["1", "2", "2", "1"], "1"),
        ([], ""),
        (["", "", "4"], "4"),
        ([""], ""),
    ],
)
def test_the_majority_is_the_most_frequent_answer_and_then_the_first(answers, chosen):
    assert majority_vote(answers) == chosen


def test_a_weighted_vote_sums_and_the_best_does_not():
    candidates = [("1", 0.6), ("2", 0.4), ("2", 0.3), ("", 0.9)]
    assert weighted_vote(candidates) == "2" and best(candidates[:3]) == "1"
    assert best([("1", 0.5), ("2", 0.5)]) == "1" and best([]) == weighted_vote([]) == ""


# The tree -----------------------------------------------------------------------------------------------------------


def test_puct_by_hand():
    node, child = Node("root", visits=9), Node("child", prior=0.25, visits=2, total=1.0)
    assert puct(node, child, 2.0) == pytest.approx(1 / 2 + 2.0 * 0.25 * 3 / 3)
    assert puct(node, Node("new", prior=0.5), 2.0) == pytest.approx(0 + 2.0 * 0.5 * 3 / 1)


def grown(actions: int, depth: int, seed: int):
    """``(priors, values, ended)`` of a full tree: node n's children are n * actions + 1, ... + actions."""
    numbers = numpy.random.default_rng(seed)
    count = sum(actions**d for d in range(depth + 1))
    priors = numbers.dirichlet(numpy.ones(actions), count)
    ended = numpy.arange(count) >= count - actions**depth
    ended |= (numbers.random(count) < 0.2) & (numpy.arange(count) > 0)
    return priors, numbers.random(count), ended


def searched(worlds, simulations: int, c_puct: float) -> list[Node]:
    """Our search in some such trees side by side; a state is (tree, node)."""

    def expand(states):
        return [
            [] if worlds[w][2][n] else [((w, n * len(p) + 1 + a), float(p[a])) for a in range(len(p))]
            for w, n in states
            for p in [worlds[w][0][n]]
        ]

    def evaluate(states):
        return [float(worlds[w][1][n]) for w, n in states]

    return mcts([(w, 0) for w in range(len(worlds))], expand, evaluate, simulations, c_puct)


def test_every_node_is_visited_as_often_as_by_mctx():
    """DeepMind's mctx with its own transformations switched off: Q as it is, C constant, no noise."""
    mctx = pytest.importorskip("mctx")
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    actions, worlds = 3, [grown(3, 4, seed) for seed in range(4)]
    priors, values, ended = (jnp.asarray(numpy.stack(part)) for part in zip(*worlds, strict=True))
    which = jnp.arange(len(worlds))

    def step(params, key, action, node):
        node = jnp.where(ended[which, node], node, node * actions + 1 + action)  # an end follows itself
        still = {"reward": jnp.zeros(len(worlds)), "discount": jnp.ones(len(worlds))}
        known = {"prior_logits": jnp.log(priors[which, node]), "value": values[which, node]}
        return mctx.RecurrentFnOutput(**still, **known), node

    @jax.jit  # compiled once for every c_puct
    def theirs(c_puct):
        start = jnp.zeros(len(worlds), dtype=jnp.int32)
        root = mctx.RootFnOutput(prior_logits=jnp.log(priors[:, 0]), value=values[:, 0], embedding=start)
        return mctx.muzero_policy(
            None, jax.random.PRNGKey(0), root, step, 60, dirichlet_fraction=0.0, pb_c_init=c_puct, pb_c_base=1e9,
            qtransform=lambda tree, node: tree.qvalues(node),
        ).search_tree  # fmt: skip

    for c_puct in (0.3, 1.25, 3.0):
        found = theirs(c_puct)
        for w, tree in enumerate(searched(worlds, 60, c_puct)):
            visited = {}
            for node, visits in zip(found.embeddings[w].tolist(), found.node_visits[w].tolist(), strict=True):
                if visits:
                    visited[node] = max(visits, visited.get(node, 0))
            assert {node.state[1]: node.visits for node in tree.below() if node.visits} == visited
            assert tree.value == pytest.approx(float(found.node_values[w, 0]), abs=1e-5)


def test_visits_and_values_add_up():
    for tree in searched([grown(3, 4, seed) for seed in range(3)], 50, 1.0):
        assert tree.visits == 51
        for node in tree.below():
            if node.children:
                assert node.visits == 1 + sum(child.visits for child in node.children)
                assert node.total == pytest.approx(node.judged + sum(child.total for child in node.children))
            elif node.visits:
                assert node.value == pytest.approx(node.judged)
            else:
                assert node.judged is None and node.total == node.value == 0


def test_a_node_is_expanded_when_a_second_visit_goes_on_and_judged_once():
    world, expanded, judged = grown(2, 3, 0), [], []

    def expand(states):
        expanded.extend(states)
        return [[] if world[2][n] else [(2 * n + 1, 0.5), (2 * n + 2, 0.5)] for n in states]

    def evaluate(states):
        judged.extend(states)
        return [float(world[1][n]) for n in states]

    (tree,) = mcts([0], expand, evaluate, 0, 1.0)
    assert (expanded, judged, tree.children) == ([], [0], None)
    (tree,) = mcts([0], expand, evaluate, 40, 1.0)
    assert len(expanded) == len(set(expanded)) and len(judged[1:]) == len(set(judged[1:]))
    assert set(expanded) == {node.state for node in tree.below() if node.visits > 1}


def test_with_time_it_prefers_the_branch_whose_ends_are_best():
    def expand(states):
        return [[(s + a, 0.5) for a in "ab"] if len(s) < 4 else [] for s in states]

    def evaluate(states):
        return [float(s == "bbab") if len(s) == 4 else 0.5 for s in states]

    (tree,) = mcts([""], expand, evaluate, 400, 0.5)
    node = tree
    while node.children:
        node = max(node.children, key=lambda child: child.visits)
    assert node.state == "bbab"


# Where tokens are counted -------------------------------------------------------------------------------------------


def test_a_step_ends_with_wait_or_with_the_completion_and_every_token_counts(base, value):
    torch.manual_seed(0)
    desk = desk_of(base, value, budget=10_000)
    states, spent, lasts = [(0, ()), (1, ())], [0, 0], set()
    for k in (100, 3, 2):
        drawn = desk.draw(states, k)
        for before, after in zip(states, drawn, strict=True):
            assert len(after) == (0 if desk.over(before) else k)
            for row, ids in after:
                new = ids[len(before[1]) :]
                assert row == before[0] and ids[: len(before[1])] == before[1] and new
                assert new[-1] in (desk.end, desk.wait) or len(ids) == 64
                assert desk.wait not in new[:-1] and desk.end not in new[:-1]
                spent[row] += len(new)
                lasts.add(new[-1])
        assert desk.spent == spent
        states = [state for after in drawn for state in after]
    assert lasts == {desk.end, desk.wait}


def test_what_the_budget_cuts_off_is_paid_for_and_lost(base, value):
    for budget, seed in itertools.product((1, 7, 20), range(2)):
        desk = desk_of(base, value, budget)
        torch.manual_seed(seed)
        drawn = desk.draw(desk.solvent(), 30, whole=True)
        assert desk.spent == [budget, budget] and desk.solvent() == []
        torch.manual_seed(seed)
        free = desk_of(base, value, 10_000).draw([(0, ()), (1, ())], 30, whole=True)
        for kept, all_of_them in zip(drawn, free, strict=True):
            fits = [sum(map(len, (ids for _, ids in all_of_them[: n + 1]))) <= budget for n in range(30)]
            assert kept == all_of_them[: sum(fits)]
        assert desk.draw([(0, ()), (1, ())], 3) == [[], []]


def test_a_completion_has_its_longest(base, value):
    torch.manual_seed(0)
    desk = desk_of(base, value, 10_000, longest=3)
    drawn = [state for states in desk.draw(desk.solvent(), 50, whole=True) for state in states]
    assert {len(ids) for _, ids in drawn} == {2, 3} and all(map(desk.over, drawn))
    assert desk.spent[0] + desk.spent[1] == sum(len(ids) for _, ids in drawn)


def test_a_long_beginning_leaves_a_short_one_its_room(base, value):
    torch.manual_seed(0)
    desk = desk_of(base, value, 10_000)
    long = tuple(base[1]("<think>" + "3:15≠wait" * 10 + "3")["input_ids"])
    short, rest = desk.draw([(0, ()), (1, long)], 50, whole=True)
    assert len(long) == 62 and all(map(desk.over, short + rest))
    assert max(len(ids) for _, ids in short) > 3 and max(len(ids) for _, ids in rest) <= 64


@pytest.mark.parametrize("name", METHODS)
def test_no_way_spends_more_than_its_budget(name, base, value):
    torch.manual_seed(0)
    desk = desk_of(base, value, 70, PROMPTS * 3)
    found = METHODS[name][0](desk, Search())
    assert len(found) == 6 and max(desk.spent) <= 70
    assert name == "one" or desk.spent == [70] * 6  # all is spent
    for row, candidates in enumerate(found):
        assert all(state[0] == row and desk.over(state) and 0 <= weight <= 1 for state, weight in candidates)
        shared = name.startswith(("beam", "mcts"))  # beginnings
        assert shared or sum(len(state[1]) for state, _ in candidates) <= 70


class Toy:
    """Two rows that write three bits, each step a token; of k steps all but one are 0, and the value is their mean."""

    def __init__(self, budget: int = 7):
        self.spent, self.budget, self.asked = [0, 0], budget, []

    def solvent(self):
        return [(row, ()) for row in (0, 1) if self.spent[row] < self.budget]

    def over(self, state):
        return len(state[1]) == 3

    def draw(self, states, k):
        self.asked += states
        found = []
        for row, ids in states:
            n = 0 if len(ids) == 3 else min(k, self.budget - self.spent[row])
            self.spent[row] += n
            found.append([(row, (*ids, int(i == 1))) for i in range(n)])
        return found

    def judge(self, states):
        return [sum(ids) / 3 for _, ids in states]


@pytest.mark.parametrize("width", [1, 2])
def test_a_beam_goes_on_from_the_best_of_its_steps(width):
    toy = Toy(budget=4 + 4 * width + 4 * width)
    found = METHODS["beam"][0](toy, Search(beam_steps=4, beam_width=width))
    prefixes = {1: [(), (1,), (1, 1)], 2: [(), (1,), (0,), (1, 1), (0, 1)]}[width]
    if width == 2:  # of (1, 0) and (0, 1), worth the same, the one drawn first
        prefixes[-1] = (1, 0)
    for row in (0, 1):
        assert [ids for r, ids in toy.asked if r == row] == prefixes
        assert found[row][:2] == [((row, (1, 1, 0)), 2 / 3), ((row, (1, 1, 1)), 1.0)]
        assert len(found[row]) == 2 * width


def test_an_ended_text_keeps_its_place_in_the_beam():
    class Early(Toy):
        def over(self, state):
            return super().over(state) or state[1] == (1,)

    toy = Early(budget=2)
    assert METHODS["beam"][0](toy, Search(beam_steps=2, beam_width=1)) == [[((row, (1,)), 1 / 3)] for row in (0, 1)]
    assert toy.asked == [(0, ()), (1, ())]  # (0,) is worth less than what has ended, and nobody goes on from it
    toy = Early(budget=6)
    METHODS["beam"][0](toy, Search(beam_steps=2, beam_width=2))
    for row in (0, 1):  # nobody goes on from (0, 0): what has ended two steps before has its place
        assert [ids for r, ids in toy.asked if r == row] == [(), (0,), (0, 1)]


def test_a_trees_priors_are_shares_of_what_was_sampled(monkeypatch):
    seen = []

    def noted(roots, expand, evaluate, simulations, c_puct):
        assert (simulations, c_puct) == (90, 0.7)
        seen.append(expand([(0, ()), (1, (0, 0, 0))]))
        return mcts(roots, expand, evaluate, simulations, c_puct)

    monkeypatch.setattr(search_module, "mcts", noted)
    found = METHODS["mcts"][0](Toy(budget=50), Search(node_steps=4, simulations=90, c_puct=0.7))
    assert seen[0] == [[((0, (0,)), 0.75), ((0, (1,)), 0.25)], []]
    for row, candidates in enumerate(found):
        assert all(state[0] == row and weight in (0.0, sum(state[1]) / 3) for state, weight in candidates)
        assert best([(str(state[1]), weight) for state, weight in candidates]) == "(1, 1, 1)"


def test_steps_and_whole_completions_have_one_distribution(base, value):
    torch.manual_seed(0)
    desk, n = desk_of(base, value, 10**9, PROMPTS[:1]), 2000
    whole = [desk.answer(state) for state in desk.draw(desk.solvent(), n, whole=True)[0]]
    growing, answers = desk.draw(desk.solvent(), n)[0], []
    while growing:
        answers += [desk.answer(state) for state in growing if desk.over(state)]
        growing = [after[0] for after in desk.draw([s for s in growing if not desk.over(s)], 1)]
    assert len(answers) == n
    for digit in "0123456789":
        p, q = whole.count(digit) / n, answers.count(digit) / n
        assert abs(p - q) < 4.5 * math.sqrt((p + q) / n)


# The learned value --------------------------------------------------------------------------------------------------


def test_v_is_read_from_the_state_before_each_token(base, value):
    policy, tokenizer = base
    rollouts = from_text(tokenizer, PROMPTS, TEXTS)
    logits = value(rollouts).detach()
    for row, (prompt, text) in enumerate(zip(PROMPTS, TEXTS, strict=True)):
        ids = tokenizer(prompt + text + tokenizer.eos_token)["input_ids"]
        hidden = policy.get_decoder()(input_ids=torch.tensor([ids])).last_hidden_state[0]
        scores = value.head(hidden).detach()
        expected = [float(scores[t - 1, ids[t]]) for t in range(len(prompt) - 1, len(ids))]
        assert logits[row, : len(expected)].tolist() == pytest.approx(expected, abs=1e-4)
        assert value.judge(rollouts)[row] == pytest.approx(1 / (1 + math.exp(-expected[-1])), abs=1e-5)


def test_the_desk_asks_for_v_of_what_is_written_so_far(base, value):
    rollouts, desk = from_text(base[1], PROMPTS, TEXTS), desk_of(base, value, 64)
    whole = value(rollouts).sigmoid().detach()
    ids = rollouts.completion_ids[0].tolist()
    states = [(0, tuple(ids[:t])) for t in range(len(ids) + 1)] + [(1, ()), (1, tuple(rollouts.completion_ids[1, :2]))]
    expected = [*whole[0].tolist(), float(whole[1, 0]), float(whole[1, 2])]
    assert desk.judge(states) == pytest.approx(expected, abs=1e-5)
    assert desk.judge([]) == [] and len(desk.known) == len(states) and desk.spent == [0, 0]


def test_the_loss_counts_each_real_place_once(base, value):
    rollouts, right = from_text(base[1], PROMPTS, TEXTS), torch.tensor([1.0, 0.0])
    v, losses = value(rollouts).sigmoid().detach(), []
    for row, n in enumerate(rollouts.lengths.tolist()):
        losses += [-math.log(p if right[row] else 1 - p) for p in v[row, : n + 1].tolist()]
    assert float(value.loss(rollouts, right).detach()) == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_each_completion_is_learned_from_with_its_own_prompt_and_end(base, monkeypatch):
    task, read, learned = Miniature(), [], []

    def noted(tokenizer, prompts, texts, device):
        read.extend(zip(prompts, texts, strict=True))
        return from_text(tokenizer, prompts, texts, device)

    def loss(model, rollouts, right):
        learned.extend(right.tolist())
        return (model(rollouts) * right[:, None]).mean()

    monkeypatch.setattr(value_module, "from_text", noted)
    monkeypatch.setattr(ValueModel, "loss", loss)
    learned_value(*base, task, 500, torch.Generator().manual_seed(0), progress=False)
    assert len(read) == len(learned) == 512 and 0 < sum(learned) < 512
    assert [task.right(text, Problem(prompt, "")) for prompt, text in read] == learned


def test_a_learned_value_knows_a_fitting_check_from_giving_up(base):
    torch.manual_seed(0)
    task = Miniature()
    value, tokens = learned_value(*base, task, 20_000, torch.Generator().manual_seed(0), 3e-3, progress=False)
    assert 20_000 <= tokens < 23_000 and not value.training
    problems = task.test_set(64)
    torch.manual_seed(1)
    rollouts = sample(*base, [problem.prompt for problem in problems], 16, 64)
    texts = rollouts.texts(base[1])
    right = task.reward(texts, problems).flatten()
    thinks = torch.tensor([text.startswith("<think>") for text in texts])
    v = torch.tensor(value.judge(rollouts))
    assert v[thinks & (right == 1)].mean() > v[thinks & (right == 0)].mean() + 0.15
    assert float(v.mean()) == pytest.approx(float(right.mean()), abs=0.08)
    desk = desk_of(base, value, 64)
    written = ["<think>3:15≠wait", "<think>3:15≠</think>3"]
    goes_on, gives_up = desk.judge([(0, tuple(base[1](text)["input_ids"])) for text in written])
    assert goes_on > gives_up


# The study ----------------------------------------------------------------------------------------------------------


def test_a_begun_equation_is_the_same_equation():
    task, plain = Begun(begin="<think>0:"), Miniature()
    pairs = zip(task.test_set(64), plain.test_set(64), strict=True)
    assert all(b.prompt == p.prompt + "<think>0:" and b.answer == p.answer for b, p in pairs)
    drawn = [t.sample(30, torch.Generator().manual_seed(0)) for t in (task, plain)]
    assert [problem.prompt for problem in drawn[0]] == [problem.prompt + "<think>0:" for problem in drawn[1]]
    problem = task.test_set(1)[0]
    assert task.right(f"04≠wait1:11=</think>{problem.answer}", problem) == 1


def test_a_run_is_plain_numbers_and_the_same_again():
    search = Search(budgets="16 48", asks=1, value_tokens=3_000, begin="<think>0:")
    first, again = search.run(3), search.run(3)
    first["seconds"] = again["seconds"] = None
    assert first == again
    assert first["curve"]["budget"] == [16, 48] and first["curve"].keys() == {"budget", *METHODS}
    assert [(row["budget"], row["method"]) for row in first["rows"]] == list(itertools.product([16, 48], METHODS))
    rows = {(row["method"], row["budget"]): row for row in first["rows"]}
    assert first["accuracy"] == first["rows"][-1]["accuracy"] == rows["mcts", 48]["accuracy"]
    assert rows["rule", 48]["by_solution"][0] > 0.8 > 0.4 > rows["rule", 48]["by_solution"][9]  # one try, or ten
    task = Miniature()
    firsts = [min(x for x in range(10) if task.right(str(x), problem)) for problem in task.test_set(64)]
    for (method, budget), row in rows.items():
        assert row["tokens_a_problem"] == budget or method == "one" and row["tokens_a_problem"] < 48
        right = sum(share * firsts.count(x) for x, share in enumerate(row["by_solution"]))
        assert len(row["by_solution"]) == 10 and right / 64 == pytest.approx(row["accuracy"], abs=1e-4)
        if METHODS[method][0] is METHODS["rule"][0]:  # the very same completions
            assert row["accuracy"] <= rows["rule", budget]["accuracy"]
    assert first["value_tokens"] >= 3_000 and first["rl_tokens"] == 0
    paid = {("one", 16), ("one", 48), *itertools.product(["majority", "beam", "mcts"], [16, 48])}
    assert first["tokens"] == pytest.approx(64 * sum(rows[key]["tokens_a_problem"] for key in paid), abs=1)


def test_a_policy_can_be_given_or_trained_first():
    how = {"methods": "one", "budgets": "1", "asks": 1, "value_tokens": 500}
    policy, tokenizer = gt.load_base("miniature_no_scratchpads")
    before = {name: weight.clone() for name, weight in policy.named_parameters()}
    given = Search(**how).run(0, policy=policy)
    assert 64 * 2 <= given["tokens"] < 64 * 3  # a digit and the end, where nobody thinks
    assert 512 * 2 <= given["value_tokens"] < 512 * 3
    trained = Search(rl_tokens=1_000, **how).run(0, policy=policy)
    assert trained["rl_tokens"] >= 1_000
    assert all(torch.equal(weight, before[name]) for name, weight in policy.named_parameters())


@pytest.mark.parametrize(
    "wrong",
    [{"methods": "guess"}, {"methods": ""}, {"budgets": ""}, {"budgets": "0 32"}, {"beam_steps": 0}, {"beam_width": 0},
     {"node_steps": 0}, {"asks": 0}, {"simulations": 0}, {"c_puct": -1.0}],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(InputError):
        Search(**wrong)


def test_settings_may_be_chosen_on_training_problems(monkeypatch):
    asked = []

    class Noted(Desk):
        def __init__(self, policy, tokenizer, value, prompts, *limits):
            asked.append(set(prompts))
            super().__init__(policy, tokenizer, value, prompts, *limits)

    monkeypatch.setattr(search_module, "Desk", Noted)
    few = {"methods": "one", "budgets": "1", "asks": 1, "value_tokens": 500}
    for practice in (False, True):
        Search(practice=practice, **few).run(0)
    held_out = {problem.prompt for problem in Miniature().test_set(64)}
    assert asked[0] == held_out and not asked[1] & held_out and len(asked[1]) > 32


def test_a_study_may_be_of_this_kind():
    assert KINDS["search"] is Search
