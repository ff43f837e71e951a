// Matrices as Float32Arrays, row by row: the product, which takes most of the time, and the norm, forward and backward.
"use strict";

// product.wat, assembled: with four numbers at a time it is about ten times as fast as the plain loop below it.
const PRODUCT =
  "AGFzbQEAAAABCwFgB39/f39/f38AAwIBAAUDAQABBxQCBm1lbW9yeQIAB3Byb2R1Y3QAAArhAwHeAwIIfwV7IARBAnQhCAJAA0AgA0UNASAB" +
  "IQsgBSEHA0D9DAAAAAAAAAAAAAAAAAAAAAAhEP0MAAAAAAAAAAAAAAAAAAAAACER/QwAAAAAAAAAAAAAAAAAAAAAIRL9DAAAAAAAAAAAAAAA" +
  "AAAAAAAhEyALIAhqIQwgDCAIaiENIA0gCGohDiAAIQkgACAIaiEKA0AgCf0ABAAhDyAQIA8gC/0ABAD95gH95AEhECARIA8gDP0ABAD95gH9" +
  "5AEhESASIA8gDf0ABAD95gH95AEhEiATIA8gDv0ABAD95gH95AEhEyAJQRBqIQkgC0EQaiELIAxBEGohDCANQRBqIQ0gDkEQaiEOIAkgCkkN" +
  "AAsgECAR/Q0AAQIDEBESEwgJCgsYGRobIBAgEf0NBAUGBxQVFhcMDQ4PHB0eH/3kASEPIBIgE/0NAAECAxAREhMICQoLGBkaGyASIBP9DQQF" +
  "BgcUFRYXDA0ODxwdHh/95AEhEiAPIBL9DQABAgMEBQYHEBESExQVFhcgDyAS/Q0ICQoLDA0ODxgZGhscHR4f/eQBIQ8gBgRAIA8gAv0ABAD9" +
  "5AEhDwsgAiAP/QsEACACQRBqIQIgDiELIAdBBGsiBw0ACyAKIQAgA0EBayEDDAALCws=";

const fast = (() => {
  try {
    const bytes = Uint8Array.from(atob(PRODUCT), c => c.charCodeAt(0));
    return new WebAssembly.Instance(new WebAssembly.Module(bytes)).exports;
  } catch { // a browser without WebAssembly's wide numbers: the plain loop does it
    return null;
  }
})();

/** out[n, m] = a[n, k] · b[m, k]ᵀ, added to what out holds if `add`. Matrices lie row by row in Float32Arrays. */
function product(a, b, n, k, m, out, add = false) {
  if (!fast || k % 4 || m % 4) return plainProduct(a, b, n, k, m, out, add);
  const [first, second, end] = [n * k, n * k + m * k, n * k + m * k + n * m];
  const lacking = 4 * end - fast.memory.buffer.byteLength;
  if (lacking > 0) fast.memory.grow(Math.ceil(lacking / 65536));
  const memory = new Float32Array(fast.memory.buffer);
  memory.set(a.subarray(0, n * k));
  memory.set(b.subarray(0, m * k), first);
  if (add) memory.set(out, second);
  fast.product(0, 4 * first, 4 * second, n, k, m, Number(add));
  out.set(memory.subarray(second, end));
  return out;
}

function plainProduct(a, b, n, k, m, out, add) {
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < m; j++) {
      let sum = add ? out[i * m + j] : 0;
      for (let t = 0; t < k; t++) sum += a[i * k + t] * b[j * k + t];
      out[i * m + j] = sum;
    }
  }
  return out;
}

/** bᵀ of b [n, m]: [m, width] with zeros behind the n numbers of a row, so that they are a multiple of 4. */
function transposed(b, n, m, width = Math.ceil(n / 4) * 4) {
  const out = new Float32Array(m * width);
  for (let i = 0; i < n; i++) for (let j = 0; j < m; j++) out[j * width + i] = b[i * m + j];
  return out;
}

/** x[n, d] / rms(x) · w, and 1 / rms of each row, which the backward needs. */
function rmsNorm(x, w, d, eps) {
  const n = x.length / d, y = new Float32Array(x.length), inverse = new Float32Array(n);
  for (let i = 0; i < n; i++) {
    let sum = 0;
    for (let t = i * d; t < (i + 1) * d; t++) sum += x[t] * x[t];
    inverse[i] = 1 / Math.sqrt(sum / d + eps);
    for (let t = 0; t < d; t++) y[i * d + t] = x[i * d + t] * inverse[i] * w[t];
  }
  return [y, inverse];
}

/** Adds to dx and dw what dy, the gradient of rmsNorm's result, gives them. */
function rmsNormBack(dy, x, inverse, w, d, dx, dw) {
  for (let i = 0; i < inverse.length; i++) {
    const o = i * d, s = inverse[i];
    let along = 0;
    for (let t = 0; t < d; t++) {
      along += dy[o + t] * w[t] * x[o + t];
      dw[t] += dy[o + t] * x[o + t] * s;
    }
    for (let t = 0; t < d; t++) dx[o + t] += s * (dy[o + t] * w[t] - x[o + t] * along * s * s / d);
  }
}
