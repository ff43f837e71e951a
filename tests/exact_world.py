"""A world so small that expectations are sums: every completion of a 3-token vocabulary, in float64.

Tokens 0 and 1 go on, token 2 is the end. A policy is a table of logits, one row for each prefix that has
not ended. With at most T = 3 tokens there are 7 prefixes and 15 completions.
"""

from __future__ import annotations

import itertools

import torch

VOCABULARY, EOS, LONGEST = 3, 2, 3


class ExactWorld:
    """All completions, and the exact quantities of a table policy over them.

    Attributes:
        ids: [N, T] completions, padded with 0.
        mask: [N, T], 1 = a token of the completion, the end included.
        states: [N, T] the row of the logit table that predicts each token; 0 in the padding.
        prefixes: the prefix that each row of the table belongs to.
    """

    def __init__(self, longest: int = LONGEST):
        going_on = range(EOS)
        self.prefixes = [p for n in range(longest) for p in itertools.product(going_on, repeat=n)]
        row = {prefix: i for i, prefix in enumerate(self.prefixes)}
        completions = [(*p, EOS) for p in self.prefixes] + list(itertools.product(going_on, repeat=longest))
        n = len(completions)
        self.ids = torch.zeros(n, longest, dtype=torch.long)
        self.mask = torch.zeros(n, longest, dtype=torch.float64)
        self.states = torch.zeros(n, longest, dtype=torch.long)
        for i, completion in enumerate(completions):
            self.ids[i, : len(completion)] = torch.tensor(completion)
            self.mask[i, : len(completion)] = 1.0
            self.states[i, : len(completion)] = torch.tensor([row[completion[:t]] for t in range(len(completion))])
        self.longest = longest

    def __len__(self) -> int:
        return len(self.ids)

    def policy(self, seed: int) -> torch.Tensor:
        """A random table of logits, [prefixes, V], with gradient."""
        generator = torch.Generator().manual_seed(seed)
        shape = (len(self.prefixes), VOCABULARY)
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    def rewards(self, seed: int) -> torch.Tensor:
        """[N], a random reward for each completion."""
        return torch.randn(len(self), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def logits(self, table: torch.Tensor) -> torch.Tensor:
        """[N, T, V], what the table predicts along each completion."""
        return table[self.states]

    def sequence_logprobs(self, table: torch.Tensor) -> torch.Tensor:
        """[N], the exact log-probability of each completion."""
        each = torch.log_softmax(self.logits(table), dim=-1).gather(-1, self.ids.unsqueeze(-1)).squeeze(-1)
        return (each * self.mask).sum(dim=1)

    def probabilities(self, table: torch.Tensor) -> torch.Tensor:
        """[N], the exact probability of each completion; they sum to 1."""
        return self.sequence_logprobs(table).exp()

    def objective(self, table: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
        """J, the exact expected reward."""
        return (self.probabilities(table) * rewards).sum()

    def objective_gradient(self, table: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
        """The exact gradient of J."""
        return torch.autograd.grad(self.objective(table, rewards), table)[0]

    def kl(self, table: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """KL(table || reference) between the distributions over whole completions."""
        p, q = self.sequence_logprobs(table), self.sequence_logprobs(reference)
        return (p.exp() * (p - q)).sum()

    def visits(self, table: torch.Tensor) -> torch.Tensor:
        """[prefixes], the probability that a completion passes through each prefix."""
        passes = torch.zeros(len(self), len(self.prefixes), dtype=torch.float64)
        for i in range(len(self)):
            passes[i, self.states[i, self.mask[i] > 0]] = 1.0
        return self.probabilities(table) @ passes

    def groups(self, size: int) -> torch.Tensor:
        """[N**size, size], every ordered group of completions."""
        return torch.cartesian_prod(*[torch.arange(len(self))] * size)
