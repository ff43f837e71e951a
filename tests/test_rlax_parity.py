"""Generalised advantage estimation against DeepMind's rlax, an independent implementation in JAX."""

import numpy
import pytest
import torch

from grpo_teach import gae

rlax = pytest.importorskip("rlax")
jax_numpy = pytest.importorskip("jax.numpy")


@pytest.mark.parametrize("gamma, lam", [(1.0, 0.95), (0.99, 0.9), (0.9, 0.0), (1.0, 1.0)])
def test_gae_equals_rlax_row_by_row(gamma, lam):
    lengths = [1, 2, 5, 8]
    mask = (torch.arange(8) < torch.tensor(lengths).unsqueeze(1)).float()
    rewards, values = torch.randn(4, 8), torch.randn(4, 8)
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for b, n in enumerate(lengths):
        discounts = numpy.full(n, gamma, dtype=numpy.float32)
        discounts[-1] = 0.0  # the episode ends with the last real token: nothing is bootstrapped
        r = jax_numpy.asarray(rewards[b, :n].numpy())
        v = jax_numpy.asarray([*values[b, :n].tolist(), 123.0])  # what stands behind the end must not matter
        theirs = torch.tensor(numpy.asarray(rlax.truncated_generalized_advantage_estimation(r, discounts, lam, v)))
        torch.testing.assert_close(advantages[b, :n], theirs, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(returns[b, :n], theirs + values[b, :n], rtol=1e-5, atol=1e-5)
        assert (advantages[b, n:] == 0).all()
