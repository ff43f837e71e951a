"""Monte-Carlo tree search after AlphaZero: a learned value judges each leaf, ends too, and nothing is played out."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field

__all__ = ["Node", "mcts", "puct"]


@dataclass(eq=False)
class Node:
    """A state in a tree, and what the search has found below it.

    Attributes:
        state: whatever ``expand`` and ``evaluate`` can read.
        prior: probability with which the policy comes here from the node above.
        judged: the learned value of this state alone; None before the first visit.
        visits, total: simulations that came through here, and the sum of the values they brought back.
        children: None before the node is expanded; empty where nothing can follow.
    """

    state: Hashable
    prior: float = 1.0
    judged: float | None = None
    visits: int = 0
    total: float = 0.0
    children: list[Node] | None = field(default=None, repr=False)

    @property
    def value(self) -> float:
        """Mean of the values brought back; 0 without a visit."""
        return self.total / self.visits if self.visits else 0.0

    def below(self) -> Iterator[Node]:
        """This node and all under it."""
        yield self
        for child in self.children or ():
            yield from child.below()


def puct(node: Node, child: Node, c_puct: float) -> float:
    """How much the search wants to go from a node to one of its children.

    ``value(child) + c_puct * prior(child) * sqrt(visits(node)) / (1 + visits(child))``: what it has brought so far, and
    a bonus that is large where the policy likes it and few have been. Values are in [0, 1], so is that of a child
    without a visit: 0.

    Args:
        node, child: visited, and one of its children.
        c_puct: weight of the bonus, in units of value.
    Source: Silver et al., Nature 550 (2017), Methods; the root counts its own first visit too; book Eq. (11.4).
    """
    return child.value + c_puct * child.prior * math.sqrt(node.visits) / (1 + child.visits)


def mcts(roots: list, expand: Callable, evaluate: Callable, simulations: int, c_puct: float) -> list[Node]:
    """Search many trees side by side, so that each question to the models is asked for all of them at once.

    A simulation walks from the root to a state not visited before, or to an end, by the largest :func:`puct`; the
    learned value of that state is added to every node on the way. A node is expanded when a walk wants to go on from
    it, not before: sampling costs tokens.

    Args:
        roots: R states.
        expand: ``(states) -> for each its [(next state, prior), ...]``, priors that sum to 1; none where all ends.
        evaluate: ``(states) -> a value for each``, in [0, 1].
        simulations: in each tree, the first look at the root not counted.
        c_puct: as :func:`puct` takes it.
    Returns:
        The R roots, with ``simulations + 1`` visits each.
    Source: Silver et al., Nature 550 (2017), Methods; without noise at the root, and expanding at a second visit, which
        leads to the same visits.
    """
    trees = [Node(state) for state in roots]
    for _ in range(simulations + 1):
        paths = [[tree] for tree in trees]
        walking = [path for path in paths if path[-1].visits]
        while walking:
            bare = [path[-1] for path in walking if path[-1].children is None]
            for node, found in zip(bare, expand([node.state for node in bare]), strict=True):
                node.children = [Node(state, prior) for state, prior in found]
            walking = [path for path in walking if path[-1].children]
            for path in walking:
                node = path[-1]
                path.append(max(node.children, key=lambda child, node=node: puct(node, child, c_puct)))
            walking = [path for path in walking if path[-1].visits]
        leaves = [path[-1] for path in paths if path[-1].judged is None]
        for leaf, judged in zip(leaves, evaluate([leaf.state for leaf in leaves]), strict=True):
            leaf.judged = judged
        for path in paths:
            for node in path:
                node.visits += 1
                node.total += path[-1].judged
    return trees
