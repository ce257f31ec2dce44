// Reads the settings that the server writes into each MP4, as JSON under the key `comment`.

const MOST_BYTES = 16 * 2 ** 20;
const HEAD_BYTES = 16;

/** Return the settings in a video file; null if it holds none. */
export async function settingsIn(file) {
  try {
    const movie = await movieBox(file);
    const comment = movie && commentIn(movie);
    return comment ? JSON.parse(comment) : null;
  } catch {
    return null; // another program's file, or a broken one
  }
}

/** Return the content of the `moov` box as a DataView. */
async function movieBox(file) {
  for (let at = 0; at + 8 <= file.size; ) {
    const head = new DataView(await file.slice(at, at + HEAD_BYTES).arrayBuffer());
    const isLong = head.getUint32(0) === 1;
    const size = isLong ? Number(head.getBigUint64(8)) : head.getUint32(0) || file.size - at;
    if (size < 8) return null;
    if (nameAt(head, 4) === "moov" && size <= MOST_BYTES) {
      return new DataView(await file.slice(at + (isLong ? 16 : 8), at + size).arrayBuffer());
    }
    at += size;
  }
  return null;
}

function commentIn(movie) {
  const inUserData = find(find(movie, "udta"), "meta");
  const meta = find(movie, "meta") ?? inUserData;
  // Boxes of MP4 begin with a version, those of QuickTime do not.
  const inner = meta && (nameAt(meta, 4) === "hdlr" ? meta : part(meta, 4));
  const [keys, list] = [find(inner, "keys"), find(inner, "ilst")];
  if (!keys || !list) return null;
  const wanted = [...boxesIn(part(keys, 8))].findIndex(({ body }) => words(body) === "comment");
  for (const { head, body } of boxesIn(list)) {
    if (head.getUint32(4) !== wanted + 1) continue;
    const data = find(body, "data");
    return data && words(part(data, 8));
  }
  return null;
}

function find(view, name) {
  if (!view) return null;
  for (const { head, body } of boxesIn(view)) if (nameAt(head, 4) === name) return body;
  return null;
}

function* boxesIn(view) {
  for (let at = 0; at + 8 <= view.byteLength; ) {
    const size = view.getUint32(at);
    if (size < 8 || at + size > view.byteLength) return;
    const box = part(view, at, size);
    yield { head: box, body: part(box, 8) };
    at += size;
  }
}

function part(view, from, length = view.byteLength - from) {
  return new DataView(view.buffer, view.byteOffset + from, length);
}

function nameAt(view, at) {
  return at + 4 <= view.byteLength ? String.fromCharCode(...new Uint8Array(view.buffer, view.byteOffset + at, 4)) : "";
}

function words(view) {
  return new TextDecoder().decode(view);
}
