"""Mistakes to put into what came after GRPO."""

FORMULAS = [
    ("sum(dim=1) / real.sum(dim=1)", "sum(dim=1) / values.shape[1] + 0 * real.sum(dim=1)"),
    ("torch.where(real, values, 0.0)", "values"),
    ("row_means(logprobs - old_logprobs.detach(), mask)", "row_means(old_logprobs.detach() - logprobs, mask)"),
    (
        "row_means(logprobs - old_logprobs.detach(), mask)",
        "((logprobs - old_logprobs.detach()).nan_to_num() * mask).sum(dim=1)",
    ),
    (
        "torch.exp(row_means(logprobs - old_logprobs.detach(), mask))",
        "row_means(torch.exp(logprobs - old_logprobs.detach()), mask)",
    ),
    ("clamp(floor, cap).detach()", "clamp(floor, cap)"),
    ("clamp(floor, cap).detach()", "clamp(floor, 1 + cap).detach()"),
    ("clamp(floor, cap).detach()", "clamp(max=cap).detach()"),
    ("torch.exp(logprobs - sampler_logprobs)", "torch.exp(sampler_logprobs - logprobs)"),
    ("torch.where(advantages > 0, tau_rise, tau_fall)", "torch.where(advantages > 0, tau_fall, tau_rise)"),
    ("-advantages * 4 / tau", "-advantages * 4"),
    ("-advantages * 4 / tau", "-advantages / tau"),
    ("torch.sigmoid(tau * (ratio - 1))", "torch.sigmoid(tau * ratio)"),
    ("torch.sigmoid(tau * (ratio - 1))", "torch.sigmoid(ratio - 1)"),
    ("(rewards - mean) / mean)", "(rewards - mean) / (mean * (1 - mean)))"),
    ("(rewards - mean) / mean)", "rewards / mean)"),
    (".masked_fill(equal, 0.0)", ""),
    ("mean = rewards.mean(dim=1, keepdim=True)", "mean = rewards.mean()"),
    ("(longest - buffer - lengths) / buffer", "(longest - lengths) / buffer"),
    ("(longest - buffer - lengths) / buffer", "(longest - buffer - lengths) / longest"),
    ("clamp(-1.0, 0.0)", "clamp(max=0.0)"),
]

DAPO = [
    ('left=name.startswith("prompt")', "left=False"),
    ("_mixed(rewards).nonzero().flatten()[: self.config.prompts]", "_mixed(rewards).nonzero().flatten()"),
    ("kept = _mixed(rewards)", "kept = (~_mixed(rewards))"),
    ("< self.config.prompts:", "< 1:"),
    ("len(drawn) < self.most and", ""),
    ("self.tokens += rollouts.tokens", "self.tokens += rollouts[rows].tokens"),
    ("row |= self.learn(rollouts[rows].trimmed(), rewards[kept])", "row |= self.learn(rollouts, rewards)"),
    ("kept.unsqueeze(1) * size + torch.arange(size", "kept.unsqueeze(1) + size * torch.arange(size"),
    ("            self.step += 1", "            self.step += 0"),
    ("return rewards + overlong_penalty", "return rewards - overlong_penalty"),
    ("clip_high: float = setting(0.28", "clip_high: float = setting(0.2"),
]

GSPO = [
    ("row_means(x, batch.mask)", "(x * batch.mask).sum(dim=1)"),
    ("new, old = mean_level(logprobs, batch)", "new, old = logprobs, batch.old_logprobs"),
    ("metrics(new, replace(batch, old_logprobs=old), *clip)", "metrics(logprobs, batch, *clip)"),
    ('"sequence_mean",  # of', '"token_mean",  # of'),
]

CISPO = [
    ("1 + config.clip_high", "config.clip_high"),
    ("weight * policy_gradient_loss", "policy_gradient_loss"),
    ("clip_low: float = setting(1.0", "clip_low: float = setting(0.2"),
]

FILES = {
    "algorithms/later/formulas.py": FORMULAS,
    "algorithms/later/dapo.py": DAPO,
    "algorithms/later/gspo.py": GSPO,
    "algorithms/later/cispo.py": CISPO,
    "algorithms/later/rloo.py": [
        ("leave_one_out_advantages(rewards), rollouts.mask", "rewards - rewards.mean(1, keepdim=True), rollouts.mask"),
        ('setting("sequence", "whose', 'setting("token", "whose'),
        ('"sequence_mean",  # of', '"token_mean",  # of'),
    ],
    "algorithms/later/reinforce_pp.py": [
        ("(group_relative_advantages(rewards, config.scale)", "(rewards"),
        ("group_relative_advantages(rewards, config.scale)", 'group_relative_advantages(rewards, "std")'),
    ],
    "algorithms/later/maxrl.py": [
        ("success_relative_advantages(rewards)", "rewards - rewards.mean(1, keepdim=True)"),
    ],
    "algorithms/later/sapo.py": [
        ("config.tau_rise, config.tau_fall", "config.tau_fall, config.tau_rise"),
        ('        "sequence_mean",\n        "how', '        "token_mean",\n        "how'),
    ],
    "algorithms/later/dr_grpo.py": [
        ('setting("none"', 'setting("std"'),
        ('        "fixed_length",\n        "how', '        "sequence_mean",\n        "how'),
    ],
}
