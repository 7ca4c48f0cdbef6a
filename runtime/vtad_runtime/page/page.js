// The live page. One rule above all: a verdict is shown only while it is heard of and its frame is young;
// otherwise the page says in the same place, as large, what is missing.

import { chartInWords, drawChart, duration, short } from "./chart.js";
import { watchPictures } from "./picture.js";

const SILENCE_S = 3; // without an event, which come once a second at least
const ANNOUNCE_MS = 2000; // the least time between two announcements to a screen reader
const NUMBERS_MS = 500; // numbers that change faster cannot be read
const CHART_MS = matchMedia("(prefers-reduced-motion: reduce)").matches ? 1000 : 100;

const $ = (id) => document.getElementById(id);
const opened = clock();
let facts = null; // of the first event: source, model, card
let update = null; // of the last event
let heard = null; // when
let points = [];
let drawn = null; // the picture on the canvas: { bitmap, about }
let announced = { text: "", at: 0 };
let calm = { numbers: 0, chart: 0, seq: -1, words: 0 };

function clock() {
  return { steady: performance.now(), wall: Date.now() };
}

/** Seconds since. Some machines stop one of the clocks while they sleep: the longer time counts. */
function since(then) {
  return Math.max(performance.now() - then.steady, Date.now() - then.wall, 0) / 1000;
}

function listen() {
  const source = new EventSource("events");
  source.onmessage = (message) => {
    const event = JSON.parse(message.data);
    if ("card" in event) begin(event);
    points = points.concat(event.points).slice(-facts.points_kept);
    update = event;
    heard = clock();
    render();
  };
  source.onerror = () => { // always by ourselves: after a refusal the browser would not try again
    source.close();
    setTimeout(listen, 1000);
  };
}

function begin(event) {
  facts = event;
  points = [];
  calm = { numbers: 0, chart: 0, seq: -1, words: 0 };
  set("category", facts.category);
  set("source", facts.source);
  set("model", facts.model.split(/[\\/]/).at(-1));
  $("source").title = facts.source;
  $("model").title = facts.model;
  const pixel = short(facts.pixel_threshold), top = short(2 * facts.pixel_threshold);
  set("tick-threshold", `pixel threshold ${pixel} standard deviations`);
  set("tick-top", top);
  set("scale-text", `Colour scale in standard deviations of good pictures, 0 to ${top}; regions are boxed from the pixel threshold of ${pixel}`);
  $("card").replaceChildren(...Object.entries(facts.card).flatMap(([key, value]) => [node("dt", key), node("dd", value)]));
}

/** What to say now: a state (colour and shape), a word, the reason, and whether it is about the present. */
function shown() {
  if (update?.closed) return { state: "GONE", word: "STOPPED", why: last("vtad-run has ended."), live: false };
  if (heard === null || since(heard) > SILENCE_S) {
    const silent = since(heard ?? opened);
    if (heard === null && silent <= SILENCE_S) return { state: "WAIT", word: "CONNECTING", why: "", live: false };
    const why = `nothing heard from vtad-run for ${duration(silent)}. Is it running? If it was restarted, use its new link.`;
    return { state: "GONE", word: "NO CONNECTION", why: last(why), live: false };
  }
  const latest = update.latest;
  if (!latest) return { state: "WAIT", word: "WAITING", why: "no frame yet", live: false };
  const quiet = update.since_frame_s === null ? null : update.since_frame_s + since(heard);
  const age = update.frame_age_s === null ? null : update.frame_age_s + since(heard);
  if (latest.verdict === "ERROR") {
    const gone = quiet !== null && quiet > update.quiet_s ? `; no frame for ${duration(quiet)}` : "";
    return { state: "ERROR", word: "ERROR", why: (latest.reason ?? "not judged") + gone, live: true };
  }
  if (quiet === null || quiet > update.quiet_s) {
    return { state: "GONE", word: "NO FRAME", why: last(`for ${duration(quiet ?? 0)}.`), live: false };
  }
  if (update.oldest_s !== null && age > update.oldest_s && latest.verdict !== "STALE") {
    return { state: "GONE", word: "NO FRAME", why: last(`the newest judged frame is ${duration(age)} old.`), live: false };
  }
  return { state: latest.verdict, word: latest.verdict, why: latest.reason ?? "", live: true };
}

function last(why) {
  const latest = update?.latest;
  return latest ? `${why} Last: ${latest.verdict} at ${time(latest.at)}.` : why;
}

function render() {
  const now = shown();
  const tile = $("verdict");
  tile.dataset.state = now.state;
  tile.style.setProperty("--letters", now.word === "NO CONNECTION" ? "CONNECTION".length : now.word.length);
  tile.toggleAttribute("data-past", !now.live && update?.latest != null);
  tile.querySelector("use").setAttribute("href", `#shape-${now.state}`);
  set("word", now.word);
  set("why", now.why);
  const chip = $("chip");
  chip.dataset.state = now.state;
  chip.querySelector("use").setAttribute("href", `#shape-${now.state}`);
  chip.querySelector("span").textContent = now.word;
  document.title = `${now.word} · ${facts?.category ?? "vtad"}`;
  announce(now);
  renderAge();
  renderOld(now);
  if (!update) return;
  renderScore(now);
  if (performance.now() - calm.chart >= CHART_MS) renderChart();
  if (performance.now() - calm.numbers >= NUMBERS_MS) renderNumbers();
}

/** Only a change of the verdict is spoken, and a flickering one not more often than every two seconds. */
function announce(now) {
  const alarm = now.live && update?.latest?.alarm ? ", alarm on" : "";
  const text = `${now.word}${alarm}`;
  if (text === announced.text || performance.now() - announced.at < ANNOUNCE_MS) return;
  announced = { text, at: performance.now() };
  set("announce", now.why && now.live ? `${text}: ${now.why}` : text);
}

function renderAge() {
  const age = update?.frame_age_s;
  set("age", age === null || age === undefined ? "–" : seconds(age + since(heard)));
}

function renderOld(now) {
  const old = !now.live || now.state === "ERROR";
  $("frame").toggleAttribute("data-old", old && drawn !== null);
  $("old").hidden = !(old && drawn);
  if (old && drawn) set("old", `last picture: frame ${drawn.about.frame}, ${time(drawn.about.captured_at)}`);
  if (!drawn || !update?.latest) return;
  const { frame, captured_at, file, regions } = drawn.about;
  const behind = update.latest.frame > frame ? update.latest.at - captured_at : 0;
  const words = `${file ? `${file}, ` : ""}frame ${frame}, ${time(captured_at)}, ${boxed(regions)}`;
  set("caption", behind > 1 && now.live ? `${words}; this picture is ${seconds(behind)} behind the verdict` : words);
}

function renderScore(now) {
  const latest = update.latest;
  const alarm = $("alarm");
  alarm.hidden = !latest || latest.alarm === null || !now.live;
  alarm.toggleAttribute("data-on", latest?.alarm === true);
  set("alarm", latest?.alarm ? "ALARM ON" : "alarm off");
  if (!latest) return;
  set("score-value", short(latest.score));
  set("score-threshold", short(latest.threshold));
  set("score-ratio", latest.score !== null && latest.threshold > 0 ? `${(latest.score / latest.threshold).toFixed(2)} ×` : "–");
  set("score-p", short(latest.p_value));
  set("score-regions", latest.score === null ? "–" : String(latest.regions));
}

function renderChart() {
  calm.chart = performance.now();
  const now = update.now + since(heard);
  const threshold = update.latest?.threshold ?? facts.threshold;
  drawChart($("chart"), points, threshold, now);
  if (performance.now() - calm.words < 1000) return;
  calm.words = performance.now();
  set("chart-summary", chartInWords(points, threshold, now));
}

function renderNumbers() {
  calm.numbers = performance.now();
  const latest = update.latest;
  set("n-judged", Object.values(update.totals).reduce((a, b) => a + b, 0).toLocaleString("en"));
  set("n-rate", update.per_s === null ? "–" : update.per_s >= 1 ? `${short(update.per_s)} / s` : `${short(update.per_s * 60)} / min`);
  set("n-dropped", update.dropped.toLocaleString("en"));
  if (latest) {
    set("n-queue", ms(latest.queue_age_ms));
    set("n-capture", ms(latest.capture_ms));
    set("n-prepare", ms(latest.prepare_ms));
    set("n-infer", ms(latest.infer_ms));
    set("n-size", latest.size ?? "–");
  }
  const rows = [["all", update.totals], ...update.hours.map((h) => [hour(h.start), h])];
  $("hours").replaceChildren(...rows.map(([name, counts], i) => countsRow(name, counts, i === 0)));
  notice("drift", update.drift && { text: update.drift, ok: false }, "Drift");
  notice("golden", update.golden, "Golden samples");
  notice("changed", facts.changed && { text: facts.changed, ok: false }, "Model file");
  $("notices").hidden = !update.drift && !update.golden && !facts.changed;
  $("outputs").hidden = !update.outputs.length;
  $("outputs-list").replaceChildren(...update.outputs.map(outputItem));
  renderNg();
}

function countsRow(name, counts, all) {
  const row = node("tr");
  if (all) row.className = "all";
  const head = node("th", name);
  head.scope = "row";
  const cells = ["OK", "NG", "UNSURE", "STALE", "ERROR"].map((verdict) => {
    const cell = node("td", counts[verdict].toLocaleString("en"));
    cell.toggleAttribute("data-zero", !counts[verdict]);
    return cell;
  });
  row.append(head, ...cells);
  return row;
}

function notice(id, content, title) {
  $(id).hidden = !content;
  if (!content) return;
  $(id).toggleAttribute("data-warn", !content.ok);
  $(id).replaceChildren(node("strong", `${content.ok ? "✓" : "⚠"} ${title}`), content.text);
}

function outputItem(state) {
  const item = node("li");
  const bad = state.connected === false || state.dropped > 0 || state.rejected > 0;
  const word = { true: "connected", false: "NOT CONNECTED" }[state.connected] ?? ""; // unknown before the first try
  const mark = node("b", `${state.name ?? "output"} ${word}`);
  mark.toggleAttribute("data-bad", bad);
  const counts = ["waiting", "delivered", "dropped", "rejected"].filter((key) => typeof state[key] === "number");
  item.append(mark, ` ${counts.map((key) => `${state[key].toLocaleString("en")} ${key}`).join(", ")}`);
  if (state.address) item.append(node("small", state.address));
  if (state.last_error) item.append(node("small", `last error: ${state.last_error}`));
  return item;
}

function renderNg() {
  $("ng-none").hidden = update.ng.length > 0;
  const list = $("ng");
  const wanted = new Set(update.ng.map((ng) => String(ng.seq)));
  for (const item of [...list.children]) if (!wanted.has(item.dataset.seq) || item.dataset.at !== at(item)) item.remove();
  const there = new Set([...list.children].map((item) => item.dataset.seq));
  for (const ng of [...update.ng].reverse()) if (!there.has(String(ng.seq))) list.prepend(ngItem(ng)); // newest first; focus stays

  function at(item) { // a new run counts from 1 again
    return String(update.ng.find((ng) => String(ng.seq) === item.dataset.seq)?.at);
  }
}

function ngItem(ng) {
  const item = node("li");
  item.dataset.seq = ng.seq;
  item.dataset.at = String(ng.at);
  const name = `NG, frame ${ng.frame}, ${time(ng.at)}, score ${short(ng.score)}`;
  const button = node("button");
  button.type = "button";
  button.setAttribute("aria-label", `${name}: enlarge`);
  const picture = node("img");
  picture.alt = "";
  picture.src = `ng/${ng.seq}-small.jpg?${ng.at}`;
  const words = node("span");
  words.append(node("b", short(ng.score)), time(ng.at));
  button.append(picture, words);
  button.onclick = () => {
    set("large-title", name);
    $("large-picture").alt = `The part with its heatmap: ${name}`;
    $("large-picture").src = `ng/${ng.seq}-large.jpg?${ng.at}`;
    $("large").showModal();
  };
  item.append(button);
  return item;
}

/** Both halves of the picture onto the canvas: plain, then tinted as strongly as the slider says. */
function blend() {
  const share = Number($("blend").value);
  set("blend-value", `${share} %`);
  $("blend").setAttribute("aria-valuetext", `${share} percent`);
  if (!drawn) return;
  const { bitmap, about } = drawn;
  const { width, height } = about;
  const paint = $("canvas").getContext("2d");
  paint.globalAlpha = 1;
  paint.drawImage(bitmap, 0, 0, width, height, 0, 0, width, height);
  paint.globalAlpha = share / 100;
  paint.drawImage(bitmap, 0, about.tinted_top, width, height, 0, 0, width, height);
}

function show(bitmap, about) {
  drawn?.bitmap.close();
  drawn = { bitmap, about };
  const { width, height, regions, frame } = about;
  const canvas = $("canvas");
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
    $("frame").style.setProperty("--ratio", width / height);
    $("frame").toggleAttribute("data-small", width < 360);
    $("boxes").setAttribute("viewBox", `0 0 ${width} ${height}`);
  }
  canvas.setAttribute("aria-label", `Picture of frame ${frame}, ${boxed(regions)}`);
  canvas.dataset.frame = frame;
  blend();
  const gap = Math.max(width, height) / 150; // the box stays clear of what it shows
  $("boxes").replaceChildren(...["edge", "box"].flatMap((kind) => regions.map(([x, y, w, h]) => {
    const box = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const place = { class: kind, x: x * width - gap, y: y * height - gap, width: w * width + 2 * gap, height: h * height + 2 * gap };
    for (const [key, value] of Object.entries(place)) box.setAttribute(key, value);
    return box;
  })));
  if (facts) render();
}

function boxed(regions) {
  return `${regions.length || "no"} ${regions.length === 1 ? "region" : "regions"} boxed`;
}

function set(id, text) {
  const element = $(id);
  if (element.textContent !== text) element.textContent = text;
}

function node(name, text) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  return element;
}

function time(at) {
  return new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
}

function hour(at) {
  return new Date(at * 1000).toLocaleString([], { weekday: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
}

function seconds(value) {
  return value < 10 ? `${value.toFixed(1)}\u00a0s` : duration(value);
}

function ms(value) {
  return value === null ? "–" : `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms`;
}

if (new URLSearchParams(location.search).has("token")) history.replaceState(null, "", location.pathname); // now a cookie
$("blend").addEventListener("input", blend);
$("large-close").addEventListener("click", () => $("large").close());
$("large").addEventListener("click", (event) => event.target === $("large") && $("large").close());
new ResizeObserver(() => update && renderChart()).observe($("chart"));
setInterval(render, 250);
listen();
watchPictures(show);
