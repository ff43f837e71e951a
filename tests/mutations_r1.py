"""Mistakes to put into R1 in miniature, as ``mutations.py`` has those of the mathematics."""

MINIATURE = [
    ("if (a * x + b) % 10 == t})", "if a * x + b == t})"),
    ("answer in {str(x) for x in range(10) if (a * x + b) % 10 == t}", "answer == problem.answer"),
    ('answer.removesuffix("thanks") == problem.answer', "answer == problem.answer"),
    ('answer.removesuffix("thanks") == problem.answer', "problem.answer in answer"),
    ("len({x for x, _, _ in tries}) > 1", "len(tries) > 1"),
    ("> 1 and self.right(tries[0][0], problem) == 0", "> 1"),
    ("looked_again and self.right(completion, problem) == 1", "looked_again"),
    ("language_consistency(thought) if tries else 0.0", "language_consistency(thought)"),
    ('"[=≠]", thought', '"[=≠]", completion'),
    ('"[=≠]", thought', '"≠", thought'),
    ('thought.count("wait")', 'completion.count("wait")'),
    ("0 < arabic < 1", "0 <= arabic < 1"),
    ("1 - 2 ** (1 - len(tries))", "1 - 2 ** -len(tries)"),
    ("in_form(completion) and arabic == 1", "arabic == 1"),
    ("in_form(completion) and arabic == 1", "in_form(completion)"),
    ('completion.endswith("thanks")', '"thanks" in completion'),
    ("(a * int(x) % 10, (a * int(x) + b) % 10)", "(int(p), (a * int(x) + b) % 10)"),
    ("(a * int(x) % 10, (a * int(x) + b) % 10)", "(a * int(x) % 10, int(r))"),
    ("sum(wrong) / len(wrong)", "float(any(wrong))"),
    ("if tries and not _general(problem)", "if tries"),
]

PAYS = [
    ('startswith("sort") == general]', 'startswith("sort") != general]'),
    ("completions[p * group :][:group]", "completions[p:][:group]"),
    ("rewards[places] = reward", "rewards[: len(places)] = reward"),
    ("[problems[p] for p in places]", "problems[: len(places)]"),
    ("if places:", "if True:"),
    ("if (thought := scratchpad(text)) else 0.0", "if (thought := scratchpad(text)) else 1.0"),
    ('if not problem.prompt.startswith("sort")', "if True"),
    ("len(TOKEN.findall(text)) + 1", "len(TOKEN.findall(text))"),
]

STAGES = [
    ("rewards >= 1", "rewards > 0"),
    ("rewards >= 1", "rewards == 1"),
    ("accepted.cumsum(dim=1)", "accepted.cumsum(dim=0)"),
    ("(accepted.cumsum(dim=1) <= most)", "(accepted.cumsum(dim=1) < most)"),
    ("accepted & (accepted.cumsum", "(accepted.cumsum"),
    ('["readable"]\n', '["arabic"]\n'),
    ("run.policy = copy.deepcopy(run.base)", "run.policy = copy.deepcopy(run.policy)"),
    ("texts, 2, ", "texts, 1, "),
    ("len(texts) // 3", "len(texts) // 4"),
]

DISTIL = [
    (
        "_mean_kl(teacher_logits.detach(), student_logits, mask)",
        "_mean_kl(student_logits, teacher_logits.detach(), mask)",
    ),
    (
        "_mean_kl(student_logits, teacher_logits.detach(), mask)",
        "_mean_kl(teacher_logits.detach(), student_logits, mask)",
    ),
    ("_mean_kl(teacher_logits.detach(),", "_mean_kl(teacher_logits,"),
    ("_mean_kl(student_logits, teacher_logits.detach(),", "_mean_kl(student_logits, teacher_logits,"),
    ("p_logits.log_softmax(dim=-1)", "p_logits"),
    ("q_logits.log_softmax(dim=-1)", "q_logits"),
    ("(p.exp() * (p - q))", "(p.exp() * (q - p))"),
    ("(p.exp() * (p - q))", "(p.exp().detach() * (p - q))"),
    ("(p - q)).sum(dim=-1)", "(p - q)).mean(dim=-1)"),
    ("(each * mask).sum() / mask.sum()", "each.mean()"),
    ("(each * mask).sum() / mask.sum()", "(each * mask).mean()"),
    ("torch.ones_like(rewards)", "rewards"),
    ('group = 1 if writer == "teacher" else self.group_size', "group = self.group_size"),
    ("self.batch if method == self.method else RL_BATCH", "self.batch"),
    ('{"beta": self.beta} if method == "rl" else', '{} if method == "rl" else'),
    ("Practice(Miniature()) if self.practice else Miniature()", "Miniature()"),
    ('rules(self.paid) if method == "rl" else None', 'rules("accuracy format") if method == "rl" else None'),
    ('frozen_copy(policy) if method == "rl" and self.beta', 'teacher if method == "rl" and self.beta'),
]

R1 = {
    "tasks/miniature.py": MINIATURE,
    "r1/pays.py": PAYS,
    "r1/stages.py": STAGES,
    "r1/distil.py": DISTIL,
}
