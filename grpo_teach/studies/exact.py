"""A world so small that expectations are sums: every completion of a tiny policy is listed, in float64.

The policy is a table of logits, one row for each prefix that has not ended; the last token of the vocabulary is
the EOS. With 3 tokens and at most 3 steps there are 7 prefixes and 15 completions, so the objective, its gradient
and the mean and variance of every gradient estimator are computed, not sampled.

Shapes: N completions, T tokens, S prefixes, V vocabulary, K = S*V parameters, M groups of G completions.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch

__all__ = ["ExactWorld", "Moments", "moments"]


class Moments(NamedTuple):
    """Mean and spread of a gradient estimator; the errors are 95% half-widths, 0 where nothing was sampled.

    Attributes:
        mean: [K].
        variance: summed over the K parameters, i.e. the mean squared distance from the mean.
        mean_error: [K].
        variance_error: of ``variance``.
    """

    mean: torch.Tensor
    variance: float
    mean_error: torch.Tensor
    variance_error: float


def moments(estimates: torch.Tensor, probabilities: torch.Tensor | None = None) -> Moments:
    """Mean and variance of gradient estimates: exact with their probabilities, else from a sample.

    Args:
        estimates: [M, K], one gradient a possible (or a sampled) batch.
        probabilities: [M], of each batch, summing to 1; None: the batches were sampled independently.
    """
    if probabilities is not None:
        mean = probabilities @ estimates
        variance = float(probabilities @ (estimates - mean).square().sum(dim=1))
        return Moments(mean, variance, torch.zeros_like(mean), 0.0)
    mean, n = estimates.mean(dim=0), len(estimates)
    distances = (estimates - mean).square().sum(dim=1) * n / (n - 1)
    mean_error = 1.959964 * estimates.std(dim=0) / n**0.5
    return Moments(mean, float(distances.mean()), mean_error, float(1.959964 * distances.std() / n**0.5))


class ExactWorld:
    """All completions, and the exact quantities of a table policy over them.

    Args:
        vocabulary: V, the EOS included.
        longest: T, tokens; a completion that has not ended by then is cut.
    Attributes:
        ids: [N, T] completions, padded with 0.
        mask: [N, T], 1 = a token of the completion, the EOS included.
        states: [N, T] the row of the logit table that predicts each token; 0 in the padding.
        prefixes: the prefix that each row of the table belongs to.
    """

    def __init__(self, vocabulary: int = 3, longest: int = 3):
        eos = vocabulary - 1
        self.vocabulary, self.longest = vocabulary, longest
        self.prefixes = [p for n in range(longest) for p in itertools.product(range(eos), repeat=n)]
        row = {prefix: i for i, prefix in enumerate(self.prefixes)}
        completions = [(*p, eos) for p in self.prefixes] + list(itertools.product(range(eos), repeat=longest))
        self.ids = torch.zeros(len(completions), longest, dtype=torch.long)
        self.mask = torch.zeros(len(completions), longest, dtype=torch.float64)
        self.states = torch.zeros(len(completions), longest, dtype=torch.long)
        for n, completion in enumerate(completions):
            self.ids[n, : len(completion)] = torch.tensor(completion)
            self.mask[n, : len(completion)] = 1.0
            self.states[n, : len(completion)] = torch.tensor([row[completion[:t]] for t in range(len(completion))])

    def __len__(self) -> int:
        return len(self.ids)

    def policy(self, seed: int) -> torch.Tensor:
        """[S, V] a random table of logits, with gradient."""
        generator = torch.Generator().manual_seed(seed)
        shape = (len(self.prefixes), self.vocabulary)
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    def rewards(self, seed: int) -> torch.Tensor:
        """[N] a random reward for each completion."""
        return torch.randn(len(self), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def logits(self, table: torch.Tensor) -> torch.Tensor:
        """[N, T, V] what the table predicts along each completion."""
        return table[self.states]

    def token_logprobs(self, table: torch.Tensor) -> torch.Tensor:
        """[N, T] the exact log-probability of each completion's tokens, in nats; 0 in the padding."""
        each = torch.log_softmax(self.logits(table), dim=-1).gather(-1, self.ids.unsqueeze(-1)).squeeze(-1)
        return torch.where(self.mask > 0, each, 0.0)  # a table may rule out what stands in the padding

    def sequence_logprobs(self, table: torch.Tensor) -> torch.Tensor:
        """[N] the exact log-probability of each completion, in nats; book Eq. (1.1)."""
        return self.token_logprobs(table).sum(dim=1)

    def probabilities(self, table: torch.Tensor) -> torch.Tensor:
        """[N] the exact probability of each completion; they sum to 1."""
        return self.sequence_logprobs(table).exp()

    def objective(self, table: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
        """J, the exact expected reward; book Eq. (1.3)."""
        return (self.probabilities(table) * rewards).sum()

    def objective_gradient(self, table: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
        """[S, V] the exact gradient of J, by differentiating the sum over all completions; book Eq. (3.1)."""
        return torch.autograd.grad(self.objective(table, rewards), table)[0]

    def kl(self, table: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """KL(table || reference) between the distributions over whole completions, in nats."""
        p, q = self.sequence_logprobs(table), self.sequence_logprobs(reference)
        return (p.exp() * (p - q)).sum()

    def passes(self) -> torch.Tensor:
        """[N, S], 1 = completion n goes through prefix s."""
        passes = torch.zeros(len(self), len(self.prefixes), dtype=torch.float64)
        for n in range(len(self)):
            passes[n, self.states[n, self.mask[n] > 0]] = 1.0
        return passes

    def visits(self, table: torch.Tensor) -> torch.Tensor:
        """[S] the probability that a completion goes through each prefix."""
        return self.probabilities(table) @ self.passes()

    def values(self, table: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
        """[S] the reward expected from each prefix on: what a perfect critic would say."""
        with torch.no_grad():
            return ((self.probabilities(table) * rewards) @ self.passes()) / self.visits(table)

    def groups(self, size: int) -> torch.Tensor:
        """[N**size, size] every ordered group of completions."""
        return torch.cartesian_prod(*[torch.arange(len(self))] * size).reshape(-1, size)

    def group_probabilities(self, table: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
        """[M] the probability of drawing each group."""
        return self.probabilities(table).detach()[groups].prod(dim=1)

    def draw(self, table: torch.Tensor, number: int, size: int, generator: torch.Generator) -> torch.Tensor:
        """[number, size] groups sampled from the policy."""
        p = self.probabilities(table).detach()
        return torch.multinomial(p, number * size, replacement=True, generator=generator).reshape(number, size)

    def token_scores(self, table: torch.Tensor) -> torch.Tensor:
        """[N, T, K] the gradient of each token's log-prob: at its own prefix ``1[v = token] - pi(v)``, else 0."""
        at_prefix = torch.nn.functional.one_hot(self.states, len(self.prefixes)).double()
        chosen = torch.nn.functional.one_hot(self.ids, self.vocabulary).double()
        surprise = chosen - torch.softmax(self.logits(table.detach()), dim=-1)
        scores = at_prefix.unsqueeze(-1) * surprise.unsqueeze(-2) * self.mask[..., None, None]
        return scores.flatten(start_dim=2)

    def row_gradients(self, table: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
        """[N, K] the estimate ``sum_t A[t] * grad log pi(token t)`` that each completion alone would give.

        Args:
            table: [S, V].
            advantages: [N, T].
        """
        return torch.einsum("nt,ntk->nk", advantages.detach(), self.token_scores(table))

    def group_gradients(
        self,
        table: torch.Tensor,
        groups: torch.Tensor,
        advantages: torch.Tensor,
        how: str = "fixed_length",
        length: int = 1,
    ) -> torch.Tensor:
        """[M, K] the estimate that each group would give: its tokens' scores times its advantages, aggregated.

        Args:
            table: [S, V].
            groups: [M, G] completions.
            advantages: [M, G], the same for all tokens of a completion.
            how, length: as in :func:`grpo_teach.aggregate`. The default, a fixed length of 1, is the mean over
                completions of the sum over tokens: the textbook policy gradient.
        Raises:
            KeyError: for an unknown ``how``.
        """
        lengths = self.mask.sum(dim=1)[groups]
        divisors = {
            "sequence_mean": groups.shape[1] * lengths,
            "token_mean": lengths.sum(dim=1, keepdim=True),
            "fixed_length": torch.tensor(float(groups.shape[1] * length)),
        }
        row_scores = self.token_scores(table).sum(dim=1)
        # As a sum over completions instead of [M, G, K] at once: large groups stay small in memory.
        weights = torch.zeros(len(groups), len(self), dtype=torch.float64)
        weights.scatter_add_(1, groups, (advantages.detach() / divisors[how]).double())
        return weights @ row_scores
