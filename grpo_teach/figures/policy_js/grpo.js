// GRPO on chain sums with the policy of policy.js: sampler, reward, advantages, loss, AdamW. One step is one call.
"use strict";

/** Numbers in [0, 1) that a seed fixes (mulberry32). */
function randomFrom(seed) {
  return () => {
    seed = seed + 0x6D2B79F5 | 0;
    let t = Math.imul(seed ^ seed >>> 15, 1 | seed);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 4294967296;
  };
}

/** "7+5+8+3+9=" and its answer: the sum modulo 10. */
function drawProblem(random) {
  const digits = Array.from({length: 5}, () => Math.floor(random() * 10));
  return {prompt: digits.join("+") + "=", answer: String(digits.reduce((a, b) => a + b) % 10)};
}

/** 1 if what stands behind the last </think> is the answer, else 0. */
function reward(completion, answer) {
  return Number(completion.split("</think>").at(-1) === answer);
}

/** G completions of each prompt: [{prompt, completion, logprobs, text}], P * G rows in prompt order. */
function sample(policy, prompts, {groupSize = 1, longest = 32, temperature = 1, random = Math.random}) {
  const V = policy.vocab, rows = prompts.flatMap(prompt => {
    const stem = policy.cache(prompt.length);
    const {logits} = policy.forward([{ids: prompt, cache: stem}]); // a prompt is read once for its group
    const next = logits.subarray((prompt.length - 1) * V);
    return Array.from({length: groupSize}, () => {
      return {prompt, completion: [], logprobs: [], stem, cache: policy.cache(longest), next};
    });
  });
  let running = rows;
  while (running.length) {
    for (const row of running) {
      const logprobs = logSoftmax(row.next, temperature);
      let left = random(), id = logprobs.findIndex(logprob => (left -= Math.exp(logprob)) < 0);
      if (id < 0) id = logprobs.indexOf(Math.max(...logprobs)); // rounding left a crumb
      row.completion.push(id);
      row.logprobs.push(logprobs[id]);
      row.ids = [id];
    }
    running = running.filter(row => row.ids[0] !== policy.eos && row.completion.length < longest);
    const {logits} = policy.forward(running);
    running.forEach((row, i) => { row.next = logits.subarray(i * V, (i + 1) * V); });
  }
  for (const row of rows) {
    row.text = row.completion.filter(id => id !== policy.eos).map(id => policy.tokens[id]).join("");
    row.ended = row.completion.at(-1) === policy.eos;
    for (const used of ["ids", "stem", "cache", "next"]) delete row[used];
  }
  return rows;
}

/** Each reward against its group's mean, in sample standard deviations; an equal group gives 0. */
function advantages(rewards) {
  const mean = rewards.reduce((a, b) => a + b) / rewards.length;
  const std = Math.sqrt(rewards.reduce((sum, r) => sum + (r - mean) ** 2, 0) / (rewards.length - 1));
  return rewards.map(r => rewards.every(other => other === r) ? 0 : (r - mean) / (std + 1e-4));
}

/**
 * The gradient of GRPO's clipped loss, the mean over all tokens of the batch: one flat array like the weights.
 * @param rows {prompt, completion, logprobs, advantage}: token ids, and log-probs of the policy that sampled; rows of one
 *   group share their prompt, the very array.
 */
function gradientOf(policy, rows, {clip = 0.2, temperature = 1} = {}) {
  const gradient = new Float32Array(policy.weights.length), V = policy.vocab;
  const tokens = rows.reduce((sum, row) => sum + row.completion.length, 0);
  const teaching = rows.filter(row => row.advantage !== 0); // the others' gradient is 0
  for (const prompt of new Set(teaching.map(row => row.prompt))) { // a group at a time: its prompt is read once
    const group = teaching.filter(row => row.prompt === prompt), stem = policy.cache(prompt.length);
    const read = [{ids: prompt, cache: stem}];
    for (const {completion} of group) {
      const ids = completion.slice(0, -1); // the last token predicts nothing
      read.push({ids, stem, cache: policy.cache(ids.length)});
    }
    const seen = policy.forward(read), dlogits = new Float32Array(seen.logits.length);
    let first = prompt.length - 1; // the row of logits before a completion's second token
    for (const {completion, logprobs: old, advantage: A} of group) {
      completion.forEach((id, t) => {
        const at = (t ? first + t : prompt.length - 1) * V; // the first token is predicted by the prompt's last
        const logprobs = logSoftmax(seen.logits.subarray(at, at + V), temperature);
        const ratio = Math.exp(logprobs[id] - old[t]);
        if (A > 0 ? ratio > 1 + clip : ratio < 1 - clip) return; // the clipped branch is the smaller one: flat
        const slope = -ratio * A / tokens / temperature; // of the loss with respect to this log-prob
        for (let v = 0; v < V; v++) dlogits[at + v] += slope * (Number(v === id) - Math.exp(logprobs[v]));
      });
      first += completion.length - 1;
    }
    policy.backward(seen, dlogits, gradient);
  }
  return gradient;
}

/** AdamW without weight decay, behind a cut of the gradient's norm. */
class Adam {
  constructor(size) {
    this.mean = new Float32Array(size);
    this.square = new Float32Array(size);
    this.t = 0;
  }

  step(weights, gradient, rate, maxNorm = 1) {
    const norm = Math.sqrt(gradient.reduce((sum, x) => sum + x * x, 0)), cut = Math.min(1, maxNorm / (norm + 1e-6));
    const c1 = 1 - 0.9 ** ++this.t, c2 = 1 - 0.999 ** this.t;
    for (let i = 0; i < weights.length; i++) {
      const x = gradient[i] * cut;
      this.mean[i] = 0.9 * this.mean[i] + 0.1 * x;
      this.square[i] = 0.999 * this.square[i] + 0.001 * x * x;
      weights[i] -= rate * (this.mean[i] / c1) / (Math.sqrt(this.square[i] / c2) + 1e-8);
    }
    return norm;
  }
}

/** One step of GRPO: sample, reward, compare within each group, update. Returns what the batch showed. */
function trainStep(policy, adam, {prompts = 16, groupSize = 16, rate = 5e-4, clip = 0.2, random}) {
  const problems = Array.from({length: prompts}, () => drawProblem(random));
  const rows = sample(policy, problems.map(({prompt}) => policy.encode(prompt)), {groupSize, random});
  const paid = rows.map((row, b) => reward(row.text, problems[Math.floor(b / groupSize)].answer));
  let mixed = 0;
  problems.forEach((_, p) => {
    const group = rows.slice(p * groupSize, (p + 1) * groupSize);
    const A = advantages(paid.slice(p * groupSize, (p + 1) * groupSize));
    group.forEach((row, i) => { row.advantage = A[i]; });
    mixed += Number(A.some(a => a !== 0));
  });
  const gradient = gradientOf(policy, rows, {clip});
  adam.step(policy.weights, gradient, rate);
  const mean = values => values.reduce((a, b) => a + b) / values.length;
  return {reward: mean(paid), length: mean(rows.map(row => row.completion.length)), mixed: mixed / prompts};
}
