"""Mistakes to put into turns and tools, as ``mutations.py`` has those of the mathematics."""

TURNS = [
    ("sampled[b] += [0.0] * len(answer)", "sampled[b] += [1.0] * len(answer)"),
    ("sampled[b] += [1.0] * length", "sampled[b] += [1.0] * (length - 1) + [0.0]"),
    ("return int(self.mask.sum())", "return int(self.written.sum())"),
    ("return self.written.sum(dim=1).long()", "return self.mask.sum(dim=1).long()"),
    ("replace(part, written=self.written[:, : part.mask.shape[1]])", "part"),
    ("read([asked[b] + ids[b] for b in running])", "read([asked[b] for b in running])"),
    ("[*end, mark] if turn < calls else end", "[*end, mark]"),
    ("[*end, mark] if turn < calls else end", "end"),
    ("if ids[b][-1] == mark", "if mark in ids[b]"),
    ("for turn in range(calls + 1)", "for turn in range(calls)"),
    ("tool(tokenizer.decode(ids[b]))", "tool(tokenizer.decode(asked[b]))"),
    ("answer = answer[: max_new_tokens - len(ids[b])]", "answer = answer"),
    ("length = min(length, max_new_tokens - len(ids[b]))  # another", "length = length  # another"),
    ("logprobs[b] += old[:length]", "logprobs[b] += old[1 : length + 1]"),
    ("logprobs[b] += [0.0] * len(answer)", "logprobs[b] += []"),
    ("for _ in range(group_size)]", "for _ in range(1)] * group_size"),
    ("turns = replace(turns, mask=turns.written)", "turns = replace(turns)"),
    ("replace(turns, old_logprobs=score(policy, turns, temperature))", "replace(turns)"),
    ("return problems, turns if self.masked else", "return problems, turns if not self.masked else"),
    ("(int(call[1]) + int(call[2])) % 10", "int(call[1]) + int(call[2])"),
    ('r"(\\d)\\+(\\d)=$"', 'r"(\\d)\\+(\\d)="'),
]

CLUSTER = [
    ("return sampling + learning * batches / gpus", "return (sampling + learning * batches) / gpus"),
    ("return sampling + learning * batches / gpus", "return sampling + learning / gpus"),
    ("return 1 - sum(lengths) / (len(lengths) * max(lengths))", "return sum(lengths) / (len(lengths) * max(lengths))"),
    ("sum(len(part) * max(part) for part in passes)", "sum(rows * max(part) for part in passes)"),
    ("sum(len(part) * max(part) for part in passes)", "len(lengths) * max(lengths)"),
    ("key=lambda row: -lengths[row]", "key=lambda row: lengths[row]"),
    ("if left >= lengths[row]", "if left > lengths[row]"),
    ("room[place] -= lengths[row]", "room[place] -= 1"),
]

SCALE = {"scale/turns.py": TURNS, "scale/cluster.py": CLUSTER}
