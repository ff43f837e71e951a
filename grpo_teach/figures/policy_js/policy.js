// The toy policy in plain JavaScript: a Llama, forward and backward, on the matrices of arrays.js. No library.
"use strict";

const LN10000 = Math.log(10000); // rotary base

class Policy {
  /**
   * @param shape {vocab, width, inner, layers, heads, eps, tokens}: sizes, and each token's text.
   * @param weights all weights in one Float32Array, in the order of `views`.
   */
  constructor(shape, weights) {
    Object.assign(this, shape, {shape});
    this.weights = weights;
    this.w = this.views(weights);
    this.head = this.width / this.heads;
    this.eos = this.tokens.indexOf("<eos>");
  }

  /** Named windows on one flat array: changing one changes the other. */
  views(flat) {
    let at = 0;
    const next = size => flat.subarray(at, at += size), d = this.width, f = this.inner;
    const embed = next(this.vocab * d);
    const layers = Array.from({length: this.layers}, () => ({
      q: next(d * d), k: next(d * d), v: next(d * d), o: next(d * d),
      gate: next(f * d), up: next(f * d), down: next(d * f), before: next(d), between: next(d),
    }));
    return {embed, layers, norm: next(d)};
  }

  /** The policy of 16-bit weights: whole numbers, of which each `width` have a scale. */
  static unpack({shape, scales, data}) {
    const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0)), whole = new Int16Array(bytes.buffer);
    return new Policy(shape, Float32Array.from(whole, (x, i) => x * scales[Math.floor(i / shape.width)]));
  }

  /** Token ids of a text; null if it holds a character that the policy does not know. */
  encode(text) {
    const parts = text.match(/<\/?think>|<eos>|[^]/g) ?? [], ids = parts.map(part => this.tokens.indexOf(part));
    return ids.includes(-1) ? null : ids;
  }

  /** A place for the keys and values of a row's tokens, of which `n` are known. */
  cache(room) {
    const layers = Array.from({length: this.layers}, () => {
      return {k: new Float32Array(room * this.width), v: new Float32Array(room * this.width)};
    });
    return {n: 0, layers};
  }

  /** Turn each head's pairs (t, t + half) by its position's angle; `sign` -1 turns back. Rotary positions. */
  turn(x, tokens, sign = 1) {
    const d = this.width, half = this.head / 2;
    tokens.forEach(({place}, i) => {
      for (let t = 0; t < half; t++) {
        const angle = sign * place * Math.exp(-LN10000 * t / half), c = Math.cos(angle), s = Math.sin(angle);
        for (let h = i * d + t; h < (i + 1) * d; h += this.head) {
          const a = x[h], b = x[h + half];
          x[h] = a * c - b * s;
          x[h + half] = b * c + a * s;
        }
      }
    });
    return x;
  }

  /**
   * Read new tokens of some rows, behind what their caches hold, and add them there.
   * @param rows [{ids, cache, stem}]: a stem is the cache of a text that several rows begin with, their prompt; its own
   *   row may stand before them in the same call. The tokens of all rows, N, are worked on together, without padding.
   * @returns {logits [N, V], ...} and what `backward` needs.
   */
  forward(rows) {
    const d = this.width, f = this.inner, ids = rows.flatMap(row => row.ids), N = ids.length;
    const tokens = rows.flatMap(({ids, cache, stem}) => {
      const own = cache.n, before = stem ? stem.n : 0; // tokens in the row's own cache, and in its stem
      cache.n += ids.length;
      return ids.map((_, i) => ({cache, stem, before, own: own + i, place: before + own + i}));
    });
    let size = 0; // of the attention weights: each token has one a head for itself and all before it
    for (const token of tokens) { token.start = size; size += this.heads * (token.place + 1); }
    let x = new Float32Array(N * d);
    ids.forEach((id, i) => x.set(this.w.embed.subarray(id * d, (id + 1) * d), i * d));
    const layers = this.w.layers.map((w, l) => {
      const [h, inverse] = rmsNorm(x, w.before, d, this.eps);
      const make = (weight, m) => product(h, weight, N, d, m, new Float32Array(N * m));
      const q = this.turn(make(w.q, d), tokens), k = this.turn(make(w.k, d), tokens), v = make(w.v, d);
      tokens.forEach(({cache, own}, i) => {
        cache.layers[l].k.set(k.subarray(i * d, (i + 1) * d), own * d);
        cache.layers[l].v.set(v.subarray(i * d, (i + 1) * d), own * d);
      });
      const weights = new Float32Array(size), mixed = new Float32Array(N * d);
      tokens.forEach((token, i) => this.attend(token, l, q, i, weights, mixed));
      const middle = product(mixed, w.o, N, d, d, x.slice(), true);
      const [y, inverse2] = rmsNorm(middle, w.between, d, this.eps);
      const gate = product(y, w.gate, N, d, f, new Float32Array(N * f));
      const up = product(y, w.up, N, d, f, new Float32Array(N * f)), inner = new Float32Array(N * f);
      for (let t = 0; t < inner.length; t++) inner[t] = gate[t] / (1 + Math.exp(-gate[t])) * up[t];
      const kept = {x, h, inverse, q, weights, mixed, middle, y, inverse2, gate, up, inner};
      x = product(inner, w.down, N, f, d, middle.slice(), true);
      return kept;
    });
    const [last, inverse] = rmsNorm(x, this.w.norm, d, this.eps);
    const logits = product(last, this.w.embed, N, d, this.vocab, new Float32Array(N * this.vocab));
    return {ids, tokens, layers, x, inverse, last, logits};
  }

  /** What a token looks at, itself the last: [keys and values, how many of them], the stem's and its row's own. */
  seenBy({cache, stem, before, own}, l) {
    const mine = [cache.layers[l], own + 1];
    return stem ? [[stem.layers[l], before], mine] : [mine];
  }

  /** Token i mixes the values of what it looks at, by softmax(q·k / √head). */
  attend(token, l, q, i, weights, mixed) {
    const d = this.width, hd = this.head, scale = 1 / Math.sqrt(hd), n = token.place + 1;
    for (let h = 0; h < this.heads; h++) {
      const o = i * d + h * hd, first = token.start + h * n;
      let top = -Infinity, sum = 0, at = first;
      for (const [{k}, many] of this.seenBy(token, l)) {
        for (let j = 0; j < many; j++, at++) {
          let dot = 0;
          for (let t = 0; t < hd; t++) dot += q[o + t] * k[j * d + h * hd + t];
          weights[at] = dot * scale;
          top = Math.max(top, weights[at]);
        }
      }
      for (at = first; at < first + n; at++) sum += weights[at] = Math.exp(weights[at] - top);
      at = first;
      for (const [{v}, many] of this.seenBy(token, l)) {
        for (let j = 0; j < many; j++, at++) {
          const p = weights[at] /= sum;
          for (let t = 0; t < hd; t++) mixed[o + t] += p * v[j * d + h * hd + t];
        }
      }
    }
  }

  /**
   * Add to `gradient`, one flat array, the gradient of a loss whose gradient with respect to the logits is `dlogits`.
   * Everything that the caches hold must have been read in that one `forward`.
   */
  backward(seen, dlogits, gradient) {
    const d = this.width, f = this.inner, N = seen.ids.length, g = this.views(gradient), V = this.vocab;
    for (const {cache} of seen.tokens) { // room for the gradients of keys and values, once a cache
      for (const layer of cache.layers) {
        layer.dk ??= new Float32Array(layer.k.length);
        layer.dv ??= new Float32Array(layer.v.length);
      }
    }
    const wide = Math.ceil(N / 4) * 4;
    const through = (dy, weight, m, k, dx) => product(dy, transposed(weight, m, k, m), N, m, k, dx, true);
    const onto = (dy, x, m, k, dw) => product(transposed(dy, N, m), transposed(x, N, k), m, wide, k, dw, true);
    onto(dlogits, seen.last, V, d, g.embed);
    const dlast = through(dlogits, this.w.embed, V, d, new Float32Array(N * d)), dx = new Float32Array(N * d);
    rmsNormBack(dlast, seen.x, seen.inverse, this.w.norm, d, dx, g.norm);
    for (let l = this.layers - 1; l >= 0; l--) {
      const w = this.w.layers[l], s = seen.layers[l], into = g.layers[l];
      // the feed-forward part
      onto(dx, s.inner, d, f, into.down);
      const dinner = through(dx, w.down, d, f, new Float32Array(N * f));
      const dgate = new Float32Array(N * f), dup = new Float32Array(N * f);
      for (let t = 0; t < dinner.length; t++) {
        const sigmoid = 1 / (1 + Math.exp(-s.gate[t])), silu = s.gate[t] * sigmoid;
        dup[t] = dinner[t] * silu;
        dgate[t] = dinner[t] * s.up[t] * (sigmoid + silu * (1 - sigmoid));
      }
      onto(dgate, s.y, f, d, into.gate);
      onto(dup, s.y, f, d, into.up);
      const dy = through(dup, w.up, f, d, through(dgate, w.gate, f, d, new Float32Array(N * d)));
      rmsNormBack(dy, s.middle, s.inverse2, w.between, d, dx, into.between);
      // attention
      onto(dx, s.mixed, d, d, into.o);
      const dmixed = through(dx, w.o, d, d, new Float32Array(N * d));
      const [dq, dk, dv] = [0, 1, 2].map(() => new Float32Array(N * d));
      seen.tokens.forEach((token, i) => this.attendBack(token, l, s, dmixed, i, dq));
      seen.tokens.forEach(({cache, own}, i) => {
        dk.set(cache.layers[l].dk.subarray(own * d, (own + 1) * d), i * d);
        dv.set(cache.layers[l].dv.subarray(own * d, (own + 1) * d), i * d);
      });
      this.turn(dq, seen.tokens, -1);
      this.turn(dk, seen.tokens, -1);
      const dh = new Float32Array(N * d);
      for (const [name, dout] of [["q", dq], ["k", dk], ["v", dv]]) {
        onto(dout, s.h, d, d, into[name]);
        through(dout, w[name], d, d, dh);
      }
      rmsNormBack(dh, s.x, s.inverse, w.before, d, dx, into.before);
    }
    seen.ids.forEach((id, i) => { for (let t = 0; t < d; t++) g.embed[id * d + t] += dx[i * d + t]; });
  }

  attendBack(token, l, {q, weights}, dmixed, i, dq) {
    const d = this.width, hd = this.head, scale = 1 / Math.sqrt(hd), n = token.place + 1, dp = new Float32Array(n);
    for (let h = 0; h < this.heads; h++) {
      const o = i * d + h * hd, first = token.start + h * n;
      let mean = 0, c = 0;
      for (const [{v, dv}, many] of this.seenBy(token, l)) {
        for (let j = 0; j < many; j++, c++) {
          const other = j * d + h * hd, p = weights[first + c];
          let dot = 0;
          for (let t = 0; t < hd; t++) {
            dot += dmixed[o + t] * v[other + t];
            dv[other + t] += p * dmixed[o + t];
          }
          dp[c] = dot;
          mean += p * dot;
        }
      }
      c = 0;
      for (const [{k, dk}, many] of this.seenBy(token, l)) {
        for (let j = 0; j < many; j++, c++) {
          const other = j * d + h * hd, slope = weights[first + c] * (dp[c] - mean) * scale;
          for (let t = 0; t < hd; t++) {
            dq[o + t] += slope * k[other + t];
            dk[other + t] += slope * q[o + t];
          }
        }
      }
    }
  }
}

/** Log-probabilities of one row of logits at a temperature. */
function logSoftmax(logits, temperature = 1) {
  const top = Math.max(...logits), scaled = Array.from(logits, x => (x - top) / temperature);
  const norm = Math.log(scaled.reduce((sum, x) => sum + Math.exp(x), 0));
  return scaled.map(x => x - norm);
}

/** Log-probs of the completion's tokens behind the prompt, both as token ids. */
function score(policy, prompt, completion, temperature = 1) {
  const ids = [...prompt, ...completion].slice(0, -1), V = policy.vocab;
  const {logits} = policy.forward([{ids, cache: policy.cache(ids.length)}]);
  return completion.map((id, t) => {
    const at = prompt.length - 1 + t; // the logits behind a token say what comes next
    return logSoftmax(logits.subarray(at * V, (at + 1) * V), temperature)[id];
  });
}
