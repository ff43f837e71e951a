"""Fixtures shared by all tests: one thread, a fixed seed, and a policy small enough to score in milliseconds."""

import copy
from types import SimpleNamespace

import pytest
import torch

from grpo_teach.policy import load_base, tiny_policy, tiny_tokenizer
from grpo_teach.rollout import sample
from grpo_teach.studies.exact import ExactWorld

torch.set_num_threads(1)  # two processes with two threads each on two cores are many times slower than one


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes minutes; leave out with -m 'not slow'")


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer()


def small_policy(tokenizer, seed: int = 0):
    """A 2-layer Llama of width 32 whose weights are large enough that the next token is far from uniform."""
    torch.manual_seed(seed)
    policy = tiny_policy(tokenizer, hidden_size=32, layers=2, heads=2, intermediate_size=64)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.dim() > 1:
                parameter.mul_(10.0)
    return policy.eval()


@pytest.fixture(scope="session")
def template(tokenizer):
    return small_policy(tokenizer)


@pytest.fixture
def policy(template):
    """A fresh copy for each test, so that a test may change its weights."""
    return copy.deepcopy(template)


@pytest.fixture(scope="session")
def other_policy(tokenizer):
    """Another policy of the same shape: a reference, or a policy that sampled long ago."""
    return small_policy(tokenizer, seed=1).requires_grad_(False)


PROMPTS = ["1+2=", "3+4+5=", "9+9+9+9="]  # unequal lengths, so that two of three rows are left-padded


@pytest.fixture
def rollouts(policy, tokenizer):
    """3 prompts x 4 samples of ragged length, up to 10 tokens."""
    torch.manual_seed(1)
    return sample(policy, tokenizer, PROMPTS, group_size=4, max_new_tokens=10)


REWARDS = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])


@pytest.fixture
def rewards():
    """[3, 4]: a mixed group, one of equal rewards, another mixed one."""
    return REWARDS.clone()


@pytest.fixture(scope="session")
def base():
    """The pretrained policy that ships with the package. Copy it before training it."""
    policy, tokenizer = load_base()
    return SimpleNamespace(policy=policy, tokenizer=tokenizer)


@pytest.fixture(scope="session")
def world():
    """15 completions whose expectations are sums."""
    return ExactWorld()


@pytest.fixture
def table(world):
    """A policy over them: [7, 3] logits."""
    return world.policy(seed=1)


@pytest.fixture
def own_progress(tmp_path, monkeypatch):
    """The file in which this test alone keeps its solved exercises; none so far."""
    from grpo_teach.exercises import report  # here: most tests, and every mutant's, do without the checkers

    monkeypatch.setenv("GRPO_TEACH_PROGRESS", str(tmp_path / "progress.json"))
    monkeypatch.setattr(report, "_solved", set())
    return tmp_path / "progress.json"
