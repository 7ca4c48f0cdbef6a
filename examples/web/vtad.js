// A model of vtad-export in the browser: the card inside the file, a picture fitted as vtad fits it, the verdict.
// Plain JavaScript, no library but onnxruntime-web, which the caller gives. Runs in Node.js too.

/** What an ONNX file says of itself, by key: field 14 of ModelProto, entries of key (1) and value (2). */
export function metadata(file) {
  const found = {};
  for (const [number, entry] of fields(file)) {
    if (number !== 14) continue;
    const { 1: key, 2: value } = Object.fromEntries(fields(entry));
    found[new TextDecoder().decode(key)] = new TextDecoder().decode(value);
  }
  return found;
}

/** The fields of a protobuf message that hold bytes, as [number, bytes]; numbers are skipped. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0, scale = 1, byte;
    do {
      if (at >= bytes.length) throw new Error("expected an ONNX file, got one that is cut off: copy it again");
      byte = bytes[at++];
      value += (byte & 0x7f) * scale;
      scale *= 128;
    } while (byte >= 0x80);
    return value;
  };
  while (at < bytes.length) {
    const tag = varint(), number = Math.floor(tag / 8), kind = tag % 8;
    if (kind === 0) varint();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === 2) {
      const length = varint();
      yield [number, bytes.subarray(at, at + length)];
      at += length;
    } else throw new Error("expected an ONNX file, got something else");
  }
}

/** A model, opened. */
export class Detector {
  /** `file`: the bytes of an .onnx file (Uint8Array); `ort`: the module onnxruntime-web. */
  static async open(ort, file) {
    const texts = metadata(file);
    if (!texts["vtad.card"]) throw new Error("expected a model of vtad-export with its card, got one without");
    const self = new Detector();
    self.card = JSON.parse(texts["vtad.card"]);
    self.references = JSON.parse(texts["vtad.references"] ?? '{"pictures": []}').pictures;
    self.ort = ort;
    self.session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
    return self;
  }

  /** Judge a picture: RGBA, row by row, as `getImageData` gives it. */
  async judge({ data, width, height }) {
    const { input, calibration } = this.card;
    const pixels = fit({ data, width, height }, input);
    const image = new this.ort.Tensor("uint8", planes(pixels), [1, 3, input.height, input.width]);
    const found = await this.session.run({ [input.name]: image }, ["score", "heatmap"]);
    const score = found.score.data[0], heatmap = found.heatmap.data;
    const { scores, threshold } = calibration;
    const pValue = (1 + scores.filter((s) => s >= score).length) / (scores.length + 1);
    const finite = Number.isFinite(score) && heatmap.every(Number.isFinite);
    return { verdict: !finite ? "ERROR" : score > threshold ? "NG" : "OK", score, pValue, heatmap };
  }
}

/** The heatmap as RGBA: nothing below half of the pixel threshold, full colour from twice of it on. */
export function colours(heatmap, pixelThreshold) {
  const rgba = new Uint8ClampedArray(4 * heatmap.length);
  heatmap.forEach((value, i) => {
    const strength = Math.min(1, Math.max(0, (value / pixelThreshold - 0.5) / 1.5));
    rgba.set([255, 200 * (1 - strength), 0, 200 * strength], 4 * i);
  });
  return rgba;
}

/** RGBA of any size as the model's input, RGB (height, width, 3): vtad_runtime/contract/image.py, fit_image. */
export function fit(picture, input) {
  const [x, y, width, height] = input.roi ?? [0, 0, picture.width, picture.height];
  if (x + width > picture.width || y + height > picture.height) {
    throw new Error(`expected the region of interest inside the picture, got one of ${picture.width}x${picture.height}`);
  }
  let used = { x, y, width, height }, inside = { x: 0, y: 0, width: input.width, height: input.height };
  if (input.fit === "letterbox") {
    const scale = Math.min(input.width / width, input.height / height);
    inside = centred(inside, even(width * scale), even(height * scale));
  } else if (input.fit === "centre_crop") {
    const scale = Math.max(input.width / width, input.height / height);
    used = centred(used, even(input.width / scale), even(input.height / scale));
  }
  const resized = resize(cut(picture, used), inside.width, inside.height);
  const fitted = new Uint8Array(input.width * input.height * 3);
  for (let row = 0; row < inside.height; row++) {
    const line = resized.data.subarray(3 * row * inside.width, 3 * (row + 1) * inside.width);
    fitted.set(line, 3 * ((inside.y + row) * input.width + inside.x));
  }
  return { data: fitted, width: input.width, height: input.height };
}

function centred(outer, width, height) {
  width = Math.min(Math.max(width, 1), outer.width);
  height = Math.min(Math.max(height, 1), outer.height);
  const x = outer.x + Math.floor((outer.width - width) / 2), y = outer.y + Math.floor((outer.height - height) / 2);
  return { x, y, width, height };
}

/** A box of RGBA as RGB. */
function cut({ data, width }, box) {
  const rgb = new Uint8Array(box.width * box.height * 3);
  for (let y = 0, to = 0; y < box.height; y++) {
    for (let x = 0, from = 4 * ((box.y + y) * width + box.x); x < box.width; x++, from += 4) {
      rgb[to++] = data[from];
      rgb[to++] = data[from + 1];
      rgb[to++] = data[from + 2];
    }
  }
  return { data: rgb, width: box.width, height: box.height };
}

/** (H, W, 3) as (3, H, W). */
function planes({ data }) {
  const size = data.length / 3, out = new Uint8Array(data.length);
  for (let i = 0; i < size; i++) for (let c = 0; c < 3; c++) out[c * size + i] = data[3 * i + c];
  return out;
}

/** OpenCV's INTER_AREA where an axis shrinks, then its INTER_LINEAR where one grows: the same pixels, bit for bit. */
export function resize(rgb, width, height) {
  const smaller = [Math.min(rgb.width, width), Math.min(rgb.height, height)];
  if (smaller[0] < rgb.width || smaller[1] < rgb.height) rgb = area(rgb, ...smaller);
  return width > rgb.width || height > rgb.height ? linear(rgb, width, height) : rgb;
}

/** Means of the source pixels under each target pixel (OpenCV 5, resize.cpp: ResizeAreaFast, ResizeArea). */
function area({ data, width: W, height: H }, width, height) {
  const out = new Uint8Array(width * height * 3), scaleX = W / width, scaleY = H / height;
  if (Number.isInteger(scaleX) && Number.isInteger(scaleY)) {
    const share = Math.fround(1 / (scaleX * scaleY)), half = scaleX === 2 && scaleY === 2;
    for (let y = 0, to = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        for (let c = 0; c < 3; c++) {
          let sum = 0;
          for (let j = 0; j < scaleY; j++) {
            for (let i = 0; i < scaleX; i++) sum += data[3 * ((y * scaleY + j) * W + x * scaleX + i) + c];
          }
          out[to++] = half ? (sum + 2) >> 2 : even(Math.fround(sum * share));
        }
      }
    }
    return { data: out, width, height };
  }
  const columns = shares(W, width), rows = shares(H, height);
  const line = new Float32Array(3 * width), sum = new Float32Array(3 * width);
  for (let y = 0; y < height; y++) {
    sum.fill(0);
    for (const [source, weight] of rows[y]) {
      line.fill(0);
      columns.forEach((parts, x) => {
        for (const [column, part] of parts) {
          const from = 3 * (source * W + column);
          for (let c = 0; c < 3; c++) {
            line[3 * x + c] = Math.fround(line[3 * x + c] + Math.fround(data[from + c] * part));
          }
        }
      });
      for (let i = 0; i < line.length; i++) sum[i] = Math.fround(sum[i] + Math.fround(weight * line[i]));
    }
    for (let i = 0; i < sum.length; i++) out[3 * y * width + i] = Math.min(255, even(sum[i]));
  }
  return { data: out, width, height };
}

/** By target pixel: [source pixel, its share], as float32. */
function shares(from, to) {
  const scale = from / to;
  return Array.from({ length: to }, (_, i) => {
    const start = i * scale, end = start + scale, cell = Math.min(scale, from - start), parts = [];
    const last = Math.min(Math.floor(end), from - 1), first = Math.min(Math.ceil(start), last);
    if (first - start > 1e-3) parts.push([first - 1, Math.fround((first - start) / cell)]);
    for (let s = first; s < last; s++) parts.push([s, Math.fround(1 / cell)]);
    if (end - last > 1e-3) parts.push([last, Math.fround(Math.min(end - last, 1, cell) / cell)]);
    return parts;
  });
}

/** Between the two nearest source pixels on each axis, in OpenCV's fixed point (resize.cpp: HResizeLinear, VResizeLinear). */
function linear({ data, width: W, height: H }, width, height) {
  const columns = neighbours(W, width, true), rows = neighbours(H, height, false);
  const wide = new Int32Array(3 * width * H), out = new Uint8Array(3 * width * height);
  for (let y = 0; y < H; y++) {
    for (let x = 0; x < width; x++) {
      const [a, b, p, q] = columns[x];
      for (let c = 0; c < 3; c++) {
        wide[3 * (y * width + x) + c] = data[3 * (y * W + a) + c] * p + data[3 * (y * W + b) + c] * q;
      }
    }
  }
  for (let y = 0; y < height; y++) {
    const [a, b, p, q] = rows[y];
    for (let i = 0; i < 3 * width; i++) {
      const above = (p * (wide[3 * a * width + i] >> 4)) >> 16, below = (q * (wide[3 * b * width + i] >> 4)) >> 16;
      out[3 * y * width + i] = (above + below + 2) >> 2;
    }
  }
  return { data: out, width, height };
}

/** By target pixel: two source pixels and their shares in 1/2048; at the edges only columns take one alone. */
function neighbours(from, to, alone) {
  return Array.from({ length: to }, (_, i) => {
    const at = Math.fround((i + 0.5) * (from / to) - 0.5), first = Math.floor(at);
    let share = Math.fround(at - first);
    if (alone && (first < 0 || first >= from - 1)) share = 0;
    const inside = (s) => Math.min(Math.max(s, 0), from - 1);
    return [inside(first), inside(first + 1), even(Math.fround(Math.fround(1 - share) * 2048)), even(share * 2048)];
  });
}

/** Rounded; halves to the even number, as in Python and OpenCV. */
function even(value) {
  const low = Math.floor(value), rest = value - low;
  return rest > 0.5 || (rest === 0.5 && low % 2 === 1) ? low + 1 : low;
}
