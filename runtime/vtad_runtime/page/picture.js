// Reads the MJPEG stream part by part, because a part's header says which frame it is and where its regions are.
// Each JPEG holds the plain picture above the tinted one; the newest one is drawn, older ones that came with it are not.

const END_OF_HEADER = [13, 10, 13, 10];

/** Call show(bitmap, about) for each picture, for ever; opens the stream again when it ends. */
export async function watchPictures(show) {
  for (;;) {
    try {
      await visible();
      await readOnce(show);
    } catch {
      // A dead server is said by the event stream, which fails at the same time.
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

function visible() {
  if (!document.hidden) return undefined;
  return new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
}

async function readOnce(show) {
  const ended = new AbortController();
  const hide = () => document.hidden && ended.abort(); // browsers open six connections to one server, tabs share them
  document.addEventListener("visibilitychange", hide);
  try {
    // WebKit takes multipart/x-mixed-replace apart by itself; under this type it leaves the bytes alone.
    const options = { headers: { accept: "application/octet-stream" }, cache: "no-store", signal: ended.signal };
    const response = await fetch("picture.mjpg", options);
    if (!response.ok) return;
    const reader = response.body.getReader();
    let bytes = new Uint8Array(0);
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      bytes = joined(bytes, value);
      let newest = null;
      for (let part = firstPart(bytes); part; part = firstPart(bytes)) {
        newest = part;
        bytes = bytes.subarray(part.end);
      }
      if (newest) show(await createImageBitmap(new Blob([newest.jpeg], { type: "image/jpeg" })), newest.about);
    }
  } finally {
    ended.abort();
    document.removeEventListener("visibilitychange", hide);
  }
}

function joined(a, b) {
  const all = new Uint8Array(a.length + b.length);
  all.set(a);
  all.set(b, a.length);
  return all;
}

function firstPart(bytes) {
  const at = indexOf(bytes, END_OF_HEADER);
  if (at < 0) return null;
  const header = new TextDecoder().decode(bytes.subarray(0, at));
  const start = at + 4;
  const end = start + Number(/content-length: (\d+)/i.exec(header)[1]);
  if (bytes.length < end + 2) return null;
  return { jpeg: bytes.slice(start, end), about: JSON.parse(/x-vtad-picture: (.*)/i.exec(header)[1]), end: end + 2 };
}

function indexOf(bytes, wanted) {
  for (let i = bytes.indexOf(wanted[0]); i >= 0; i = bytes.indexOf(wanted[0], i + 1)) {
    if (wanted.every((byte, k) => bytes[i + k] === byte)) return i;
  }
  return -1;
}
