// Score over time: from 0 to three times the threshold, whatever the scores are. What lies above is marked at the edge.

const TOP = 3; // thresholds
// seconds shown, and between two ticks
const SPANS_S = [[30, 10], [60, 20], [120, 30], [300, 60], [600, 120], [1800, 300], [3600, 600], [7200, 1800], [21600, 3600],
  [43200, 7200], [86400, 14400]];
const MARGIN = { left: 46, right: 10, top: 10, bottom: 20 };
const TICK_WIDTH = 62; // pixels, of a label
const NOT_JUDGED_Y = 7; // pixels above the zero line, where marks without a score lie

/** Draw points [seq, at, score, verdict] into the svg; now and at are seconds since the epoch by the server's clock. */
export function drawChart(svg, points, threshold, now) {
  const width = svg.clientWidth, height = svg.clientHeight;
  if (!width || !height) return;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const [span, step] = spanOf(points, now);
  const unit = threshold > 0 ? threshold : 1;
  const bottom = height - MARGIN.bottom, right = width - MARGIN.right;
  const x = (at) => MARGIN.left + (right - MARGIN.left) * (1 - (now - at) / span);
  const y = (score) => bottom - (bottom - MARGIN.top) * Math.min(Math.max(score / (TOP * unit), 0), 1);

  const parts = [];
  for (const share of [0, 1, 2, 3]) {
    const text = share === 1 ? "threshold-text" : "";
    parts.push(tag("path", { class: share === 1 ? "threshold" : "grid", d: `M${MARGIN.left} ${y(share * unit)}H${right}` }));
    parts.push(tag("text", { class: text, x: MARGIN.left - 6, y: y(share * unit) + 4, "text-anchor": "end" }, short(share * unit)));
  }
  parts.push(tag("rect", { class: "above", x: MARGIN.left, y: MARGIN.top, width: right - MARGIN.left, height: y(unit) - MARGIN.top }));
  const each = Math.ceil((TICK_WIDTH * span) / (step * (right - MARGIN.left))); // label every n-th tick
  for (let ago = 0; ago <= span; ago += step * each) {
    const anchor = ago === 0 ? "end" : ago === span ? "start" : "middle";
    parts.push(tag("text", { x: x(now - ago), y: height - 4, "text-anchor": anchor }, ago ? `−${duration(ago)}` : "now"));
  }

  const seen = points.filter((p) => p[1] >= now - span);
  const marks = { dot: "", NG: "", clipped: "", UNSURE: "", STALE: "", ERROR: "" };
  let trace = "", drawing = false;
  for (const [, at, score, verdict] of seen) {
    const px = x(at).toFixed(1);
    if (score === null) {
      drawing = false;
      const kind = verdict === "ERROR" || verdict === "UNSURE" ? verdict : "STALE";
      marks[kind] += MARK[kind](px, bottom - NOT_JUDGED_Y);
      continue;
    }
    const py = y(score).toFixed(1);
    trace += `${drawing ? "L" : "M"}${px} ${py}`;
    drawing = true;
    if (score > TOP * unit) marks.clipped += MARK.clipped(px, MARGIN.top);
    else if (verdict in MARK) marks[verdict] += MARK[verdict](px, py);
    else if (seen.length <= 120) marks.dot += `M${px - 1.8} ${py}a1.8 1.8 0 1 0 3.6 0a1.8 1.8 0 1 0-3.6 0z`;
  }
  parts.push(tag("path", { class: "trace", d: trace }), tag("path", { class: "dot", d: marks.dot }));
  for (const kind of ["STALE", "UNSURE", "ERROR", "NG", "clipped"]) parts.push(tag("path", { class: `m-${kind}`, d: marks[kind] }));
  svg.replaceChildren(...parts);
}

/** The chart in words. */
export function chartInWords(points, threshold, now) {
  const scores = points.map((p) => p[2]).filter((s) => s !== null);
  if (!scores.length) return points.length ? `${points.length} frames, none with a score` : "no score yet";
  const above = scores.filter((s) => s > threshold).length;
  return `highest ${short(Math.max(...scores))}; `
    + `${above} of ${scores.length} above the threshold in ${duration(now - points[0][1])}`;
}

const MARK = {
  NG: (x, y) => `M${x} ${y - 5}l5 5-5 5-5-5z`,
  clipped: (x, y) => `M${x} ${y - 6}l6 11h-12z`,
  UNSURE: (x, y) => `M${x} ${y - 5}l5 9h-10z`,
  STALE: (x, y) => `M${x - 3} ${y - 3}h6v6h-6z`,
  ERROR: (x, y) => `M${x - 4} ${y - 4}l8 8m0-8l-8 8`,
};

function spanOf(points, now) {
  const needed = points.length ? now - points[0][1] : 0;
  return SPANS_S.find(([span]) => span >= needed) ?? SPANS_S.at(-1);
}

function tag(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

export function duration(seconds) {
  if (seconds < 100) return `${Math.round(seconds)}\u00a0s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)}\u00a0min`;
  return `${Math.round(seconds / 360) / 10}\u00a0h`;
}

/** Three significant digits. */
export function short(value) {
  if (value === null || value === undefined) return "–";
  return Math.abs(value) >= 1000 ? value.toFixed(0) : value === 0 ? "0" : value.toPrecision(3);
}
