// What the tests ask a page about itself.

// Nothing moves slowly from now on, and what is folded is unfolded, if so asked.
window.settle = unfold => {
  document.head.insertAdjacentHTML("beforeend", "<style>* { transition: none !important }</style>");
  if (unfold) for (const e of document.querySelectorAll("details")) e.open = true;
};

// Elements that stick out of the window and that no box around them scrolls or cuts; equations cut at their left, and
// formulas in the text cut at their right.
window.tooWide = () => {
  const right = document.documentElement.clientWidth + 1, found = [];
  const keeps = e => /auto|scroll|hidden|clip/.test(getComputedStyle(e).overflowX);
  for (const e of document.querySelectorAll("body *")) {
    const box = e.getBoundingClientRect();
    if (!box.width || box.right <= right || !e.checkVisibility({visibilityProperty: true}) || e.closest("dialog")) continue;
    let outer = e.parentElement;
    while (outer && !keeps(outer)) outer = outer.parentElement;
    if (!outer) found.push(`${e.tagName.toLowerCase()} ${e.textContent.slice(0, 80)} ends at ${box.right} px`);
  }
  for (const e of document.querySelectorAll("div.math mjx-container > svg")) {
    const lost = e.closest("div.math").getBoundingClientRect().left - e.getBoundingClientRect().left;
    if (lost > 1) found.push(`the first ${lost} px of ${e.closest("div.math").id} cannot be reached`);
  }
  for (const e of document.querySelectorAll("span.math mjx-container")) {
    const box = e.closest("span.math"), over = e.getBoundingClientRect().width - box.clientWidth;
    if (over > 1) found.push(`${over} px are cut off a formula: ${box.parentElement.textContent.slice(0, 80)}`);
  }
  const width = document.documentElement.scrollWidth;
  return width > right ? [...found, `the page is ${width} px wide`] : found;
};

// Figures drawn at less than half their size, so that their letters of 15 pixels have less than 8.
window.tooSmall = () => [...document.querySelectorAll(".bd-article img")]
  .filter(e => e.checkVisibility() && e.clientWidth < e.naturalWidth / 2)
  .map(e => `${e.alt.slice(0, 80)}: ${e.clientWidth} of ${e.naturalWidth} px`);

// For axe, which takes its time: out with MathJax's own drawing and with all words of code but one of each class.
const spareAxe = () => {
  const seen = new Set();
  for (const e of document.querySelectorAll("mjx-container svg > *, mjx-assistive-mml")) e.remove();
  for (const e of document.querySelectorAll("div.highlight pre span[class]")) {
    const kind = `${e.className} ${e.closest("div[class*=highlight-]")?.className}`;
    if (seen.has(kind)) e.remove();
    seen.add(kind);
  }
};

// Texts of one look, that is of the same colours and size, are judged once.
const sampleLooks = () => {
  const seen = new Set(), clear = colour => /^rgba\(.*, 0\)$/.test(colour);
  for (const e of document.querySelectorAll("body *")) {
    e.removeAttribute("data-judged");
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility()) continue;
    let under = e;
    while (under.parentElement && clear(getComputedStyle(under).backgroundColor)) under = under.parentElement;
    const {color, fontSize, fontWeight, opacity} = getComputedStyle(e);
    const look = [color, fontSize, fontWeight, opacity, getComputedStyle(under).backgroundColor].join();
    if (!seen.has(look)) e.setAttribute("data-judged", seen.add(look).size);
  }
};

// Serious and critical faults by axe's rules, those of colour in the light and in the dark theme.
window.faults = async excused => {
  spareAxe();
  const judge = async (context, options) => {
    const {violations} = await axe.run(context, {resultTypes: ["violations"], preload: false, ...options});
    return violations
      .filter(fault => ["serious", "critical"].includes(fault.impact) && !excused.includes(fault.id))
      .flatMap(fault => fault.nodes.map(node => `${fault.id}: ${node.html.slice(0, 160)} ${node.failureSummary.slice(0, 240)}`));
  };
  const found = await judge(document, {rules: {"color-contrast": {enabled: false}}});
  for (const theme of ["light", "dark"]) {
    document.documentElement.dataset.theme = theme;
    sampleLooks();
    const faults = await judge({include: [["[data-judged]"]]}, {runOnly: ["color-contrast"]});
    found.push(...faults.map(fault => `${theme} theme, ${fault}`));
  }
  return found;
};
