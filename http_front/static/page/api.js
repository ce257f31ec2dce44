// Calls the server's API, with the API key if there is one.

import { sentenceOf } from "./refusals.js";
import { key, sentPictures } from "./store.js";

// The server's limit for one page.
const MAX_PAGE = 100;
// With a key, a page of cards asks for its stills at half the usual rate limit.
const BETWEEN_STILLS_MS = 200;

/** An error from the server, with a message for people. */
export class Refusal extends Error {
  constructor(status, body = {}, retryAfterS = null) {
    const { code = "", field = null, fields = [{ field }] } = body.error ?? {};
    super(sentenceOf({ code, status, retryAfterS }));
    Object.assign(this, { status, body, code, field, fields: fields.map((each) => each.field) });
  }
}

function headers() {
  return key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
}

/** Return a path below the page's own address: a proxy may serve the page under a prefix. */
function relative(path) {
  return path.replace(/^\//, "");
}

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(relative(path), { ...options, headers: { ...headers(), ...options.headers } });
  } catch {
    throw new Refusal(0);
  }
  if (!response.ok) {
    const body = await response.json().catch(() => ({}));
    throw new Refusal(response.status, body, response.headers.get("Retry-After"));
  }
  return response;
}

/** Return the JSON of a response, whose end may be lost. */
async function jsonOf(response) {
  return response.json().catch(() => {
    throw new Refusal(0);
  });
}

async function post(path, body, options = {}) {
  const response = await call(path, {
    ...options,
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  return jsonOf(response);
}

/** Return the fields of a job with their ranges, from the OpenAPI document. */
export async function jobFields() {
  const document = await (await call("/openapi.json")).json();
  return document.components.schemas.SubmitByFile.properties;
}

/** Return the models that jobs may name. */
export async function listModels() {
  return (await (await call("/v1/models")).json()).data;
}

/** Return the state of the server and its queue, even if the server is not ready. */
export async function health() {
  try {
    return await (await call("/health")).json();
  } catch (refusal) {
    if (refusal.status === 503) return refusal.body;
    throw refusal;
  }
}

/** Return a name for a request of which the server makes one job however often it comes. */
export function newRequestKey() {
  // randomUUID() is missing on pages without HTTPS.
  const numbers = crypto.getRandomValues(new Uint32Array(4));
  return Array.from(numbers, (number) => number.toString(16).padStart(8, "0")).join("");
}

/** Submit a job with its pictures by name, each as a file or as a URL; return its id. */
export async function submit(pictures, settings, requestKey) {
  const form = new FormData();
  for (const [name, value] of Object.entries(settings)) form.append(name, value);
  for (const [name, picture] of Object.entries(pictures)) {
    form.append(typeof picture === "string" ? `${name}_url` : name, picture);
  }
  const headers = { "Idempotency-Key": requestKey };
  const response = await call("/video/submit", { method: "POST", body: form, headers });
  const id = (await jsonOf(response)).requestId;
  sentPictures.keep(id, pictures);
  return id;
}

/** Return the latest jobs that a query selects, newest first, and whether there are more. */
export async function list(limit, selection = {}) {
  const jobs = [];
  for (;;) {
    const number = Math.min(limit - jobs.length, MAX_PAGE);
    const query = new URLSearchParams({ ...selection, limit: number });
    if (jobs.length) query.set("after", jobs.at(-1).requestId);
    const page = JSON.parse(await (await call(`/video/list?${query}`)).text(), exactSeed);
    jobs.push(...page.jobs);
    if (!page.has_more || jobs.length >= limit) return { jobs, hasMore: page.has_more };
  }
}

/** Keep a seed above 2^53 as its digits: JavaScript would round it. */
function exactSeed(key, value, context) {
  return key === "seed" && value > Number.MAX_SAFE_INTEGER ? (context?.source ?? value) : value;
}

export const cancel = (id) => post("/video/cancel", { requestId: id });
export const keep = (id, isKept) => post("/video/keep", { requestId: id, keep: isKept });
export const remove = (id, options) => post("/video/delete", { requestId: id }, options);
export const status = (id) => post("/video/status", { requestId: id });

/** Open the WebSocket with a job's changes and previews. */
export function watch(id, lastSeq) {
  const url = new URL("video/progress", document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  url.search = new URLSearchParams({ requestId: id, last_seq: lastSeq, previews: 1 });
  // A page cannot set Authorization on a WebSocket, so the key goes into the subprotocols.
  return new WebSocket(url, key.get() ? ["wan", `bearer.${key.get()}`] : ["wan"]);
}

/** Return a file of the server as a Blob. */
export async function download(path) {
  return (await call(path)).blob();
}

/** Return a URL that an element can load. Elements cannot send a key, so a file may be fetched. */
export async function loadable(path) {
  if (!key.get()) return relative(path);
  return URL.createObjectURL(await download(path));
}

/** Return the pictures that the server keeps of a job; null if one of them is gone. */
export async function picturesOf({ requestId, has_last_image: hasLast }) {
  try {
    const image = await pictureAt(`/videos/${requestId}.input.webp`);
    if (!hasLast) return { image };
    return { image, last_image: await pictureAt(`/videos/${requestId}.last_input.webp`) };
  } catch (refusal) {
    if ([404, 410].includes(refusal.status)) return null;
    throw refusal;
  }
}

async function pictureAt(path) {
  const blob = await download(path);
  return new File([blob], "picture.webp", { type: blob.type });
}

let stills = Promise.resolve();

/** Return a URL of a still as `loadable` does: one after another, since a key has a rate limit. */
export function loadableStill(path) {
  if (!key.get()) return loadable(path);
  const still = stills.then(() => loadable(path));
  const pause = () => new Promise((done) => setTimeout(done, BETWEEN_STILLS_MS));
  stills = still.then(pause, pause);
  return still;
}
