"""Mistakes to put into search at test time, as ``mutations.py`` has those of the mathematics."""

TREE = [
    ("self.total / self.visits if", "self.total if"),
    ("child.value + c_puct", "node.value + c_puct"),
    ("child.value + c_puct", "-child.value + c_puct"),
    ("math.sqrt(node.visits) /", "node.visits /"),
    ("math.sqrt(node.visits) /", "math.sqrt(child.visits) /"),
    ("/ (1 + child.visits)", "/ max(1, child.visits)"),
    ("c_puct * child.prior *", "c_puct *"),
    ("range(simulations + 1)", "range(simulations)"),
    ("if path[-1].children is None]", "if not path[-1].children]"),
    ("if path[-1].judged is None]", "if not path[-1].children]"),
    ("node.total += path[-1].judged", "node.total += path[-1].value"),
    ("node.total += path[-1].judged", "node.total = max(node.total, path[-1].judged)"),
    ("for node in path:", "for node in path[1:]:"),
    ("path.append(max(", "path.append(min("),
]

VALUE = [
    ("start - 2 : -1]", "start - 1 :]"),
    ("rollouts.prompt_ids[:, -1:], rollouts", "rollouts.prompt_ids[:, :1], rollouts"),
    ("[torch.ones_like(rollouts.mask[:, :1]), rollouts.mask]", "[rollouts.mask, rollouts.mask[:, -1:]]"),
    ("(each * mask).sum() / mask.sum()", "each.mean()"),
    ("(each * mask).sum() / mask.sum()", "((each * mask).sum(dim=1) / mask.sum(dim=1)).mean()"),
    ("gather(1, rollouts.lengths[:, None])", "gather(1, rollouts.lengths[:, None] - 1)"),
    (".squeeze(1).sigmoid()", ".squeeze(1)"),
    ("spent += rollouts.tokens", "spent += len(texts)"),
    ("right[row] for row in rows]", "1 - right[row] for row in rows]"),
    ("for problem in part for _ in range(TEXTS)]", "for _ in range(TEXTS) for problem in part]"),
]

DESK = [
    ("if spent < self.budget]", "if spent <= self.budget]"),
    ("self.end in state[1][-1:] or", "self.end in state[1][-1:] and"),
    ("or len(state[1]) == self.longest", "or len(state[1]) > self.longest"),
    ("< self.budget and not self.over(state)]", "< self.budget]"),
    ("self.longest - min(", "self.longest - max("),
    ("[self.end] if whole", "[self.end, self.wait] if whole"),
    ("else [self.end, self.wait]", "else [self.end]"),
    ("[: self.longest]", ""),
    ("+= len(after) - len(before)", "+= len(after)"),
    ("if self.spent[row] <= self.budget:", "if self.spent[row] < self.budget:"),
    ("if self.spent[row] <= self.budget:", "if True:"),
    ("min(self.spent[row], self.budget)", "self.spent[row]"),
    ("(row, after)", "(row, after[len(before) :])"),
    ("[0] * gap + [1] * len(row)", "[1] * gap + [1] * len(row)"),
    ("[self.tokenizer.pad_token_id] * gap + row", "row + [self.tokenizer.pad_token_id] * gap"),
]

METHODS = [
    ("        if answer:\n", "        if True:\n"),
    ("sums[answer] += weight", "sums[answer] = weight"),
    ("sums[answer] += weight", "sums[answer] = max(sums[answer], weight)"),
    ("(answer, 1.0) for answer in answers", "(answer, 1.0) for answer in reversed(answers)"),
    ("key=lambda candidate: candidate[1],", "key=lambda candidate: candidate[0],"),
    ("super().test_set(n)", "super().sample(n, torch.Generator())"),
    ("problem.prompt + self.begin", "self.begin + problem.prompt"),
    ("-kept[1])[: search.beam_width]", "kept[1])[: search.beam_width]"),
    ("n / counts.total()", "1 / counts.total()"),
    ("if desk.over(kept[0])]", "if False]"),
    ("node.judged or 0.0", "node.value"),
    ('if method == "rule":', 'if method == "best_of_n":'),
    ("task.max_new_tokens if find is one else budget", "budget"),
    ("copy.deepcopy(policy or base)", "policy or base"),
    ("min(x for x in range(10)", "max(x for x in range(10)"),
    ("if x == d]", "]"),
]

SEARCH = {"r1/tree.py": TREE, "r1/value.py": VALUE, "r1/desk.py": DESK, "r1/search.py": METHODS}
