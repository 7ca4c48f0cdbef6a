// The gallery: wrong ones first, filters, arrow keys, and one picture enlarged.

const gallery = byId("gallery");
const tiles = gallery ? [...gallery.querySelectorAll(".tile")] : [];
const indexOf = (tile) => Number(tile.dataset.at);
const filters = ["by-verdict", "by-kind", "by-name"].map(byId);
const shownTiles = () => tiles.filter((tile) => !tile.parentElement.hidden);
let enlarged = null;

const fault = (i) => (isWrong(i) ? (defective[i] ? "missed" : "false alarm") : "");

/** Verdicts, order and filters at the threshold of now. */
function arrange() {
  for (const tile of tiles) {
    const i = indexOf(tile);
    tile.classList.toggle("wrong", isWrong(i));
    tile.querySelector(".verdict").textContent = verdict(i);
    tile.querySelector(".fault").textContent = fault(i);
  }
  const rank = (i) => (isWrong(i) ? [0, -Math.abs(scores[i] - threshold)] : [1, -scores[i]]);
  const before = tiles.map(indexOf).join();
  tiles.sort((a, b) => {
    const [ra, rb] = [rank(indexOf(a)), rank(indexOf(b))];
    return ra[0] - rb[0] || ra[1] - rb[1];
  });
  if (tiles.map(indexOf).join() !== before) gallery.append(...tiles.map((tile) => tile.parentElement));
  filter();
}

const kindsOfVerdict = {
  wrong: isWrong,
  missed: (i) => isWrong(i) && defective[i],
  "false-alarm": (i) => isWrong(i) && !defective[i],
};

function filter() {
  const [byVerdict, byKind, name] = filters.map((field) => field?.value ?? "");
  for (const tile of tiles) {
    const i = indexOf(tile);
    const right = !byVerdict || (kindsOfVerdict[byVerdict] ?? ((one) => verdict(one) === byVerdict))(i);
    const named = data.name[i].toLowerCase().includes(name.trim().toLowerCase());
    tile.parentElement.hidden = !(right && named && (!byKind || data.kind[i] === byKind));
  }
  const shown = shownTiles();
  byId("count").textContent = `${shown.length} of ${tiles.length}`;
  byId("none").hidden = shown.length > 0;
  for (const tile of tiles) tile.tabIndex = -1;
  if (shown.length) shown[0].tabIndex = 0;
}

function focusTile(tile) {
  for (const other of tiles) other.tabIndex = other === tile ? 0 : -1;
  tile.focus();
}

/** The tile that is `step` further, or in the next row where it lies below or above. */
function neighbour(tile, key) {
  const shown = shownTiles(), at = shown.indexOf(tile);
  if (key === "Home") return shown[0];
  if (key === "End") return shown.at(-1);
  if (key === "ArrowRight" || key === "ArrowLeft") return shown[at + (key === "ArrowRight" ? 1 : -1)];
  const here = tile.getBoundingClientRect(), down = key === "ArrowDown";
  const row = (down ? shown.slice(at + 1) : shown.slice(0, at).reverse()).filter((other) => {
    const top = other.getBoundingClientRect().top;
    return down ? top > here.top + 2 : top < here.top - 2;
  });
  if (!row.length) return undefined;
  const top = row[0].getBoundingClientRect().top;
  const distance = (other) => Math.abs(other.getBoundingClientRect().left - here.left);
  return row.filter((other) => Math.abs(other.getBoundingClientRect().top - top) < 2)
    .reduce((best, other) => (distance(other) < distance(best) ? other : best));
}

function enlarge(tile) {
  enlarged = tile;
  const i = indexOf(tile), dialog = byId("large"), layers = tile.querySelector(".layers").cloneNode(true);
  for (const image of layers.querySelectorAll("img")) image.loading = "eager";
  const first = layers.querySelector("img");
  layers.style.setProperty("--ratio", first.getAttribute("width") / first.getAttribute("height"));
  byId("large-layers").replaceChildren(layers);
  byId("large-name").textContent = data.name[i];
  byId("large-what").textContent = [verdict(i), fault(i), data.kind[i],
    `score ${scores[i].toPrecision(4)}, threshold ${Number(threshold.toPrecision(4))}`].filter(Boolean).join(" · ");
  const shown = shownTiles(), at = shown.indexOf(tile);
  byId("before").disabled = at <= 0;
  byId("after").disabled = at === shown.length - 1;
  if (!dialog.open) dialog.showModal();
}

function step(by) {
  const shown = shownTiles(), next = shown[shown.indexOf(enlarged) + by];
  if (next) enlarge(next);
}

if (gallery) {
  gallery.addEventListener("click", (event) => {
    const tile = event.target.closest(".tile");
    if (tile) enlarge(tile);
  });
  gallery.addEventListener("keydown", (event) => {
    const tile = event.target.closest(".tile");
    if (!tile || !["Home", "End", "ArrowRight", "ArrowLeft", "ArrowUp", "ArrowDown"].includes(event.key)) return;
    event.preventDefault();
    const next = neighbour(tile, event.key);
    if (next) focusTile(next);
  });
  for (const field of filters) field?.addEventListener("input", filter);
  document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
  byId("by-layer").addEventListener("input", () => { document.body.dataset.layer = byId("by-layer").value; });
  byId("before").addEventListener("click", () => step(-1));
  byId("after").addEventListener("click", () => step(1));
  byId("close").addEventListener("click", () => byId("large").close());
  byId("large").addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  byId("large").addEventListener("close", () => { if (enlarged && !enlarged.parentElement.hidden) focusTile(enlarged); });
  let waiting = 0;
  document.addEventListener("threshold", () => {
    clearTimeout(waiting);
    waiting = setTimeout(arrange, 120); // a slider moves faster than pictures should
  });
  document.addEventListener("enlarge", (event) => {
    enlarge(tiles.find((tile) => indexOf(tile) === event.detail));
  });
  addEventListener("beforeprint", () => {
    for (const image of gallery.querySelectorAll("img")) image.loading = "eager";
  });
  filter();
}
move(data.threshold);
