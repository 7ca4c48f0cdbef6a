// The threshold explorer: what any threshold would cost, counted from the scores in the page.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const scores = data.score, defective = data.defective;
const total = [0, 0]; // good, defective
for (const bad of defective) total[bad] += 1;
let threshold = data.threshold, explorerInView = true;

// Exact intervals (Clopper & Pearson, 1934), as vtad_runtime.contract.threshold.binomial computes them.
const logFactorial = [0];
for (let i = 1; i <= Math.max(...total); i++) logFactorial.push(logFactorial[i - 1] + Math.log(i));

/** The probability of k or fewer of n, each with this probability. */
function atMost(k, n, share) {
  if (share <= 0 || k >= n) return 1;
  if (share >= 1) return 0;
  const logShare = Math.log(share), logRest = Math.log1p(-share);
  let sum = 0;
  for (let i = 0; i <= k; i++) {
    sum += Math.exp(logFactorial[n] - logFactorial[i] - logFactorial[n - i] + i * logShare + (n - i) * logRest);
  }
  return Math.min(1, sum);
}

/** The share up to which `below` holds, by bisection. */
function shareWhere(below) {
  let low = 0, high = 1;
  for (let i = 0; i < 50; i++) {
    const middle = (low + high) / 2;
    if (below(middle)) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

function exactInterval(k, n) {
  const tail = (1 - 0.95) / 2;
  return [k === 0 ? 0 : shareWhere((p) => 1 - atMost(k - 1, n, p) < tail), k === n ? 1 : shareWhere((p) => atMost(k, n, p) > tail)];
}

/** What is said of a picture at this threshold. */
function verdict(i, at = threshold) {
  if (scores[i] > at) return "NG";
  return data.review !== null && scores[i] > data.review ? "UNSURE" : "OK";
}

const isWrong = (i) => (scores[i] > threshold) !== Boolean(defective[i]);

// The stops of the slider: halfway between neighbouring scores and beyond both ends; where the run's own threshold lies, that.
const distinct = [...new Set(scores)].sort((a, b) => a - b);
const edge = 0.001 * (distinct.at(-1) - distinct[0]) || 0.001;
const stops = [];
for (let i = 0; i <= distinct.length; i++) {
  const last = distinct[i - 1] ?? -Infinity, next = distinct[i] ?? Infinity;
  const middle = i === 0 ? next - edge : i === distinct.length ? last + edge : (last + next) / 2;
  if (last <= data.threshold && data.threshold < next) stops.push(data.threshold);
  else if (middle >= data.lowest && middle <= data.highest) stops.push(middle);
}

const slider = byId("slider"), typed = byId("typed");
slider.max = stops.length - 1;

/** The shortest decimal that judges every picture as this threshold does. */
function shortest(value) {
  const next = distinct.find((score) => score > value) ?? Infinity;
  const last = distinct.findLast((score) => score <= value) ?? -Infinity;
  for (let digits = 4; digits < 17; digits++) {
    const text = String(Number(value.toPrecision(digits)));
    if (Number(text) >= last && Number(text) < next && (Number(text) > last || value === last)) return text;
  }
  return String(value);
}

function fill(row, count, of) {
  const cells = document.querySelectorAll(`#cost [data-row=${row}] td`);
  const [low, high] = exactInterval(count, of);
  cells[0].textContent = `${count} of ${of}`;
  cells[1].textContent = of ? `${(100 * count / of).toFixed(1)} %` : "–";
  cells[2].textContent = of ? `${(100 * low).toFixed(1)} to ${(100 * high).toFixed(1)} %` : "–";
}

function show() {
  const own = threshold === data.threshold;
  const text = own ? Number(threshold.toPrecision(4)).toString() : shortest(threshold);
  byId("value").textContent = text;
  byId("whose").textContent = own ? "the run's own" : "moved by hand";
  byId("reset").disabled = own;
  slider.setAttribute("aria-valuetext", text);
  let alarms = 0, misses = 0;
  const unsure = [0, 0];
  scores.forEach((score, i) => {
    if (score > threshold) alarms += 1 - defective[i];
    else {
      misses += defective[i];
      if (verdict(i) === "UNSURE") unsure[defective[i]] += 1;
    }
  });
  fill("alarms", alarms, total[0]);
  fill("misses", misses, total[1]);
  if (data.review !== null) {
    byId("band").textContent = data.review < threshold
      ? `UNSURE, for a person, from ${Number(data.review.toPrecision(4))} up to it: ${unsure[0]} good and ${unsure[1]} defective. ` +
        `Nobody looks at ${misses - unsure[1]} defective ones.`
      : `No review band: it begins at ${Number(data.review.toPrecision(4))}, above this threshold.`;
  }
  showChanged(own);
  byId("setting").hidden = own;
  byId("refused").hidden = threshold >= data.lowest && threshold <= data.highest;
  showCommand(text);
  byId("bar").hidden = own || explorerInView;
  byId("bar-value").textContent = `Threshold ${text}`;
  byId("bar-cost").textContent = `${alarms} false alarms, ${misses} missed`;
  document.querySelectorAll("#kinds tbody tr").forEach(showKind);
  document.querySelectorAll(".plot").forEach((plot) => mark(plot, alarms, misses));
  document.dispatchEvent(new Event("threshold"));
}

/** Options are not broken in two. */
function showCommand(text) {
  const words = `${data.command} ${text}`.split(/(?= --)/);
  byId("command").replaceChildren(...words.map((word) => {
    const [, option, rest] = word.match(/^( --\S+)?(.*)$/s), whole = document.createElement("span");
    whole.className = "word";
    whole.textContent = option ?? "";
    return [whole, rest];
  }).flat());
}

/** Name the pictures whose verdict between NG and not NG is not that of the run's own threshold. */
function showChanged(own) {
  const changed = scores.map((_, i) => i).filter((i) => scores[i] > threshold !== scores[i] > data.threshold);
  changed.sort((a, b) => Math.abs(scores[a] - data.threshold) - Math.abs(scores[b] - data.threshold));
  const named = changed.filter((i) => data.name[i]);
  const way = threshold < data.threshold ? "become NG" : "are NG no more";
  const ofThem = [0, 1].map((bad) => changed.filter((i) => defective[i] === bad).length);
  byId("sides").textContent = own ? "" : changed.length
    ? `${ofThem[0]} good and ${ofThem[1]} defective ${way}${named.length ? ":" : "."}`
    : "No picture changes sides.";
  byId("changed").replaceChildren(...named.map((i) => {
    const item = document.createElement("li"), shown = document.querySelector(`.tile[data-at="${i}"]`);
    const label = document.createElement(shown ? "button" : "span");
    label.textContent = data.name[i];
    if (shown) {
      label.type = "button";
      label.addEventListener("click", () => document.dispatchEvent(new CustomEvent("enlarge", { detail: i })));
    }
    item.append(label, ` ${scores[i].toPrecision(3)}`);
    return item;
  }));
}

function showKind(row) {
  const all = scores.map((_, i) => i).filter((i) => data.kind[i] === row.dataset.kind && defective[i]);
  const missed = all.filter((i) => scores[i] <= threshold).length;
  row.querySelector(".missed").textContent = missed;
  row.querySelector(".rate").textContent = `${(100 * missed / all.length).toFixed(1)} %`;
}

/** Where the threshold is in a plot. */
function mark(plot, alarms, misses) {
  const { left, right, top, bottom, x, y } = JSON.parse(plot.dataset.frame);
  const atX = (value) => left + (right - left) * Math.min(Math.max((value - x[0]) / (x[1] - x[0]), 0), 1);
  const atY = (value) => bottom + (top - bottom) * Math.min(Math.max((value - y[0]) / (y[1] - y[0]), 0), 1);
  const now = plot.querySelector(".now"), band = plot.querySelector(".band");
  if (!now) return;
  if (band) {
    now.setAttribute("d", `M${atX(threshold)} ${top}V${bottom}`);
    const from = data.review === null ? threshold : Math.min(data.review, threshold);
    band.setAttribute("x", atX(from));
    band.setAttribute("width", atX(threshold) - atX(from));
    return;
  }
  const recall = (total[1] - misses) / total[1], called = alarms + total[1] - misses;
  const isRoc = plot.classList.contains("roc");
  if (!isRoc && !called) return now.setAttribute("cx", -9); // no precision of nothing
  now.setAttribute("cx", atX(isRoc ? alarms / total[0] : recall));
  now.setAttribute("cy", atY(isRoc ? recall : (total[1] - misses) / called));
}

function move(value) {
  threshold = value;
  const nearest = stops.reduce((best, stop, i) => (Math.abs(stop - value) < Math.abs(stops[best] - value) ? i : best), 0);
  slider.value = nearest;
  if (document.activeElement !== typed) typed.value = threshold === data.threshold ? Number(value.toPrecision(6)) : shortest(value);
  show();
}

slider.addEventListener("input", () => move(stops[slider.valueAsNumber]));
typed.addEventListener("input", () => { if (Number.isFinite(typed.valueAsNumber)) move(typed.valueAsNumber); });
typed.addEventListener("blur", () => move(threshold));
byId("reset").addEventListener("click", () => move(data.threshold));
new IntersectionObserver(([seen]) => {
  explorerInView = seen.isIntersecting;
  byId("bar").hidden = explorerInView || threshold === data.threshold;
}).observe(document.querySelector(".explorer"));
byId("copy").addEventListener("click", async () => {
  const code = byId("command");
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch { // a page from disk may not be allowed to
    getSelection().selectAllChildren(code);
    document.execCommand("copy");
  }
  byId("copy").textContent = "Copied";
  setTimeout(() => { byId("copy").textContent = "Copy"; }, 1500);
});
