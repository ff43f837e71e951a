"""Mistakes to put into what is summed exactly for chapter 12, and into trainers that sample elsewhere."""

FILES = {
    "biases/weights.py": [
        ("paid = weights * (rewards - world.objective(table, rewards))", "paid = weights * rewards"),
        ("math.comb(size - 1, k) * success", "math.comb(size, k) * success"),
        ("(right - wrong)", "right"),
        ("range(size):", "range(size - 1):"),
        ("direction / direction.norm()", "direction"),
        ("/ p.sum()\n    (slope", "\n    (slope"),
        ("(log_ratio / n).exp()", "(log_ratio / n**0.5).exp()"),
        ("(rewards - p @ rewards)", "rewards"),
    ],
    "biases/sampler.py": [
        ("logits / temperature", "logits * temperature"),
        ("ordered.cumsum(dim=-1) - ordered >= top_p", "ordered.cumsum(dim=-1) >= top_p"),
        ("(logits / step).round() * step", "(logits / step).round()"),
        ("(rewards - chance @ rewards)", "rewards"),
        ("(ratio <= cap) & (ratio >= 1 / cap)", "(ratio <= cap)"),
        ("ratio.prod(dim=1, keepdim=True)", "ratio.mean(dim=1, keepdim=True)"),
        ('{"renormalised": table.masked_fill(sampler == -torch.inf, -torch.inf)}', "{}"),
        ("q.exp() * (policy - q).exp()", "q.exp() * (q - policy).exp()"),
    ],
    "biases/groups.py": [
        ("n = 1 / spread - 1\n    a, b", "n = 1 / spread\n    a, b"),
        ("share.var(ddof=1) - mean * (1 - mean) / answers", "share.var(ddof=1)"),
        ("/ (1 - 1 / answers)\n    return", "/ 1\n    return"),
        ("betaln(a, b + size)", "betaln(a, b)"),
    ],
    "biases/trainers.py": [
        ("deque(maxlen=updates + 1)", "deque(maxlen=updates + 2)"),
        ("copy.deepcopy(now) if updates else now", "now"),
        ("(ratio > cap) | (ratio < 1 / cap)", "ratio > cap"),
        ("return problems, own", "return problems, rollouts"),
        ("trainer.models.policy = own", "pass"),
        ("sampled_logits(output.logits, *self.changes)", "output.logits"),
    ],
}
