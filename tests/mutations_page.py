"""Mistakes for the policy that lives in a page, as ``mutations.py`` writes them. Node runs what they spoil."""

import shutil

GRPO = [
    ("a + b) % 10)", "a + b) % 9)"),
    ('completion.split("</think>").at(-1) === answer', 'completion.split("</think>")[0] === answer'),
    ('completion.split("</think>").at(-1) === answer', "completion.includes(answer)"),
    ("logSoftmax(row.next, temperature)", "logSoftmax(row.next)"),
    ("(left -= Math.exp(logprob)) < 0", "(left -= Math.exp(2 * logprob)) < 0"),
    ("row.logprobs.push(logprobs[id])", "row.logprobs.push(Math.exp(logprobs[id]))"),
    ("row.ids[0] !== policy.eos && row.completion.length", "row.completion.length"),
    ("(prompt.length - 1) * V);", "0);"),
    ("(rewards.length - 1));", "rewards.length);"),
    ("(r - mean) / (std + 1e-4)", "r - mean"),
    ("(r - mean) / (std + 1e-4)", "(mean - r) / (std + 1e-4)"),
    ("(r - mean) / (std + 1e-4)", "(r - mean) / std"),
    ("sum + row.completion.length, 0)", "sum + 1, 0)"),
    ("completion.slice(0, -1); //", "completion.slice(1); //"),
    ("(t ? first + t : prompt.length - 1)", "(first + t + 1)"),
    ("logprobs[id] - old[t]", "old[t] - logprobs[id]"),
    ("A > 0 ? ratio > 1 + clip : ratio < 1 - clip", "A > 0 ? ratio < 1 - clip : ratio > 1 + clip"),
    ("A > 0 ? ratio > 1 + clip : ratio < 1 - clip", "ratio > 1 + clip || ratio < 1 - clip"),
    ("A > 0 ? ratio > 1 + clip : ratio < 1 - clip", "false"),
    ("-ratio * A / tokens / temperature", "ratio * A / tokens / temperature"),
    ("-ratio * A / tokens / temperature", "-A / tokens / temperature"),
    ("-ratio * A / tokens / temperature", "-ratio * A / tokens"),
    ("Number(v === id) - Math.exp(logprobs[v])", "Number(v === id)"),
    ("first += completion.length - 1", "first += completion.length"),
    ("Math.min(1, maxNorm / (norm + 1e-6))", "1"),
    ("1 - 0.9 ** ++this.t", "++this.t"),
    ("0.001 * x * x", "0.001 * x"),
    ("Math.sqrt(this.square[i] / c2)", "Math.sqrt(this.square[i])"),
    ("weights[i] -= rate", "weights[i] += rate"),
    ("problems[Math.floor(b / groupSize)].answer", "problems[b % problems.length].answer"),
    ("row.advantage = A[i]", "row.advantage = -A[i]"),
    ("row.advantage = A[i]", "row.advantage = A[0]"),
    ("adam.step(policy.weights, gradient, rate)", "adam.step(policy.weights, gradient, 10 * rate)"),
]

POLICY = [
    ("x * scales[Math.floor(i / shape.width)]", "x * scales[0]"),
    ("sign * place * Math.exp", "sign * Math.exp"),
    ("x[h] = a * c - b * s", "x[h] = a * c + b * s"),
    ("before = stem ? stem.n : 0", "before = 0"),
    ("x.slice(), true);\n      const [y", "new Float32Array(N * d), true);\n      const [y"),
    ("/ (1 + Math.exp(-gate[t])) * up[t]", "* up[t]"),
    ("const mine = [cache.layers[l], own + 1]", "const mine = [cache.layers[l], own]"),
    ("weights[at] = dot * scale;", "weights[at] = dot;"),
    ("dgate[t] = dinner[t] * s.up[t] * (sigmoid + silu * (1 - sigmoid))", "dgate[t] = dinner[t] * s.up[t] * sigmoid"),
    ("this.turn(dk, seen.tokens, -1)", "this.turn(dk, seen.tokens)"),
    ("(dp[c] - mean) * scale", "dp[c] * scale"),
    ("dv[other + t] += p * dmixed[o + t]", "dv[other + t] = p * dmixed[o + t]"),
    ("g.embed[id * d + t] += dx[i * d + t]", "g.embed[id * d + t] += 0"),
    ("(x - top) / temperature", "x - top"),
    ("const at = prompt.length - 1 + t;", "const at = prompt.length + t - 2;"),
]

FOLDER = "figures/policy_js"
FILES = {f"{FOLDER}/grpo.js": GRPO, f"{FOLDER}/policy.js": POLICY} if shutil.which("node") else {}
