// The panel of page_policy.py: KIT holds policy.js and grpo.js, SHIPPED the packed policies.
(() => {
  const kit = KIT, shipped = SHIPPED, {Policy, logSoftmax, sample, reward, randomFrom} = kit();
  const STEPS = 40, WATCHED = ["7+5+8+3+9=", "9+9+9+9+9=", "1+0+4+6+2="];

  const start = box => {
    const find = selector => box.querySelector(selector), svg = find("svg");
    const make = (name, options = {}, ...children) => {
      const node = Object.assign(document.createElement(name), options);
      node.append(...children);
      return node;
    };
    const policies = {};
    for (const [title, packed] of Object.entries(shipped)) policies[title] = Policy.unpack(packed);
    let seed = 1;

    /** One answer of each policy, token by token, and how many of 32 are right. */
    function ask() {
      const temperature = Number(find("[name=temperature]").value), problem = find("[name=problem]").value.trim();
      find("output").textContent = temperature.toFixed(1);
      const good = /^\d(\+\d){1,4}=$/.test(problem);
      find("[name=again]").disabled = !good;
      if (!good) {
        find(".token").textContent = "A problem is two to five digits with + between them and = at the end, such as 7+5+8=.";
        return;
      }
      const answer = String(problem.match(/\d/g).reduce((a, b) => a + Number(b), 0) % 10);
      find(".token").textContent = `The sum modulo 10 is ${answer}. Choose a token: its rivals, with their probabilities, are shown here.`;
      find(".bars").replaceChildren();
      find(".sides").replaceChildren(...Object.entries(policies).map(([title, policy]) => {
        const prompt = policy.encode(problem), random = randomFrom(seed);
        const rows = sample(policy, [prompt], {groupSize: 32, temperature, random});
        const right = rows.filter(row => reward(row.text, answer)).length, shown = rows[0];
        const chips = shown.completion.map((id, t) => chip(policy, prompt, shown, id, t, temperature));
        const verdict = reward(shown.text, answer) ? "right" : shown.ended ? "wrong" : "wrong: cut off at 32 tokens";
        return make("section", {className: "side"},
          make("h3", {textContent: title}), make("p", {}, ...chips, ` ${verdict}`),
          make("p", {textContent: `Right in ${right} of 32 samples.`}));
      }));
    }

    function chip(policy, prompt, row, id, t, temperature) {
      const p = Math.exp(row.logprobs[t]), token = policy.tokens[id];
      const button = make("button", {type: "button", className: "chip", textContent: token});
      button.style.background = `rgba(0, 114, 178, ${0.08 + 0.4 * (1 - p)})`; // the darker, the less sure it was
      button.setAttribute("aria-label", `token ${token}, probability ${percent(p)}`);
      button.setAttribute("aria-pressed", "false");
      button.onclick = () => {
        for (const other of box.querySelectorAll(".chip")) other.setAttribute("aria-pressed", String(other === button));
        const ids = [...prompt, ...row.completion.slice(0, t)];
        const {logits} = policy.forward([{ids, cache: policy.cache(ids.length)}]);
        const logprobs = logSoftmax(logits.subarray(-policy.vocab), temperature);
        const order = logprobs.map((_, i) => i).sort((a, b) => logprobs[b] - logprobs[a]).slice(0, 6);
        find(".token").textContent = `After "${[...prompt, ...row.completion.slice(0, t)].map(i => policy.tokens[i]).join("")}":`;
        find(".bars").replaceChildren(...order.map(i => {
          const length = make("i");
          length.style.width = `${(60 * Math.exp(logprobs[i])).toFixed(1)}%`;
          return make("div", {className: "bar"}, make("span", {textContent: policy.tokens[i]}), length, percent(Math.exp(logprobs[i])));
        }));
      };
      return button;
    }

    const percent = p => p > 0.0095 ? `${Math.round(100 * p)}%` : "under 1%";

    // Training runs in a worker of its own, made of this page's text, so that the page stays alive.
    let worker = null, paused = false, waiting = false, rows = [];
    let asked = 0, spent = 0; // milliseconds: when the step under way was asked for, and what all steps took
    const state = text => { find(".state").textContent = text; };

    /** Ask for the next step, unless one is under way, or none is wanted. */
    function next(order = "step") {
      if (waiting || paused || rows.length === STEPS) return;
      [waiting, asked] = [true, performance.now()];
      worker.postMessage(order);
    }

    function train() {
      worker?.terminate();
      [rows, paused, waiting, spent] = [[], false, false, 0];
      find("[name=pause]").textContent = "Pause";
      const code = `const kit = ${kit}; (${work})(kit());`;
      worker = new Worker(URL.createObjectURL(new Blob([code], {type: "text/javascript"})));
      const {shape, weights} = policies[Object.keys(shipped)[0]];
      worker.onmessage = ({data}) => {
        waiting = false;
        spent += performance.now() - asked;
        rows.push(data);
        if (data.weights) policies["Trained by you"] = new Policy(shape, data.weights);
        draw();
        state(`Step ${rows.length} of ${STEPS}: ${percent(data.reward)} of the answers right, ${data.length.toFixed(0)} tokens long, ${Math.round(spent / 1000)} s.`);
        find(".transcripts").replaceChildren(...data.said.map(([problem, text]) => make("li", {textContent: problem + text})));
        if (rows.length === STEPS) finish();
        next();
      };
      worker.onerror = () => state("This browser does not let a page start a worker, so it cannot train here.");
      find("[name=pause]").disabled = false;
      find("[name=train]").textContent = "Start again";
      state("The first step is on its way.");
      next({shape, weights, seed: Date.now() % 2 ** 31, watched: WATCHED});
    }

    function finish() {
      find("[name=pause]").disabled = true;
      ask(); // now with the new policy beside the others
    }

    function draw() {
      const width = Math.min(640, svg.parentElement.clientWidth), end = width - 40; // so that letters keep their size
      const X = i => 40 + (end - 40) * i / (STEPS - 1), Y = share => 175 - 140 * share, L = length => Y(length / 32);
      const line = (f, colour, dash) => `<polyline points="${rows.map((row, i) => `${X(i).toFixed(1)},${f(row).toFixed(1)}`).join(" ")}" fill="none" stroke="${colour}" stroke-width="2.5" stroke-dasharray="${dash}"/>`;
      const text = (x, y, words, anchor = "middle") => `<text x="${x}" y="${y}" text-anchor="${anchor}" font-size="12" fill="currentColor">${words}</text>`;
      const ticks = [0, 0.5, 1].map(s => `<path d="M40 ${Y(s)}H${end}" stroke="currentColor" opacity="0.2"/>` + text(35, Y(s) + 4, `${100 * s}%`, "end") + text(end + 5, Y(s) + 4, 32 * s, "start"));
      svg.innerHTML = ticks.join("") + line(row => Y(row.reward), "#0072b2", "") + line(row => L(row.length), "#d55e00", "6 3") +
        text(width / 2, 199, "step") + text(40, 12, "right (left scale, solid)", "start") + text(40, 27, "tokens an answer (right scale, dashed)", "start");
      svg.setAttribute("viewBox", `0 0 ${width} 205`);
      svg.setAttribute("width", width);
      const last = rows.at(-1);
      svg.setAttribute("aria-label", `After ${rows.length} steps ${percent(last.reward)} of the answers are right and they are ${last.length.toFixed(0)} tokens long.`);
    }

    find("[name=pause]").onclick = ({target}) => {
      paused = !paused;
      target.textContent = paused ? "Go on" : "Pause";
      next();
    };
    find("[name=train]").onclick = train;
    find("form").onsubmit = event => { event.preventDefault(); seed++; ask(); };
    find("[name=temperature]").oninput = ask;
    find("[name=problem]").oninput = ask;
    ask();
  };

  /** What the worker does: a step for each message, and with each the weights as they now are. */
  function work({Policy, Adam, sample, trainStep, randomFrom}) {
    let policy, adam, random, watched;
    onmessage = ({data}) => {
      if (data.shape) {
        policy = new Policy(data.shape, data.weights.slice());
        adam = new Adam(policy.weights.length);
        random = randomFrom(data.seed);
        watched = data.watched;
      }
      const row = trainStep(policy, adam, {random});
      const said = watched.map(problem => [problem, sample(policy, [policy.encode(problem)], {random})[0].text]);
      postMessage({...row, said, weights: policy.weights.slice()});
    };
  }

  const begin = () => document.querySelectorAll(".grpo-page-policy").forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
