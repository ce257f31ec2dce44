// Puts the page together: form, videos, server state, language, API key.

import * as api from "./api.js";
import { Gallery } from "./gallery.js";
import { keepModels, models } from "./models.js";
import { Picture } from "./picture.js";
import { Settings } from "./settings.js";
import * as store from "./store.js";
import { language, preferredLanguage, speak, text } from "./texts.js";
import { toast } from "./toast.js";

const REFRESH_MS = 4000;
const INPUTS = {
  image: "picture-file",
  image_url: "picture-url",
  last_image: "last-picture-file",
  last_image_url: "last-picture-url",
};

const part = (id) => document.getElementById(id);
let hasAsked = false; // ask for a key only once; after that the user opens the dialog by its button
const form = part("form");
const prompt = part("prompt");

speak(store.language.get() || preferredLanguage());
showLanguageButton();
const fields = await api.jobFields();
const picture = new Picture("picture", { taken: turn });
const lastPicture = new Picture("last-picture");
picture.acceptElsewhere();
const settings = new Settings(fields, { changed });
const gallery = new Gallery({ useSettings, animate, announce, fail });

prompt.maxLength = fields.prompt.maxLength;
prompt.value = store.draft.get().prompt ?? "";
settings.fill(store.draft.get());
await loadModels();

form.addEventListener("submit", submit);
form.addEventListener("input", keepDraft);
form.addEventListener("change", keepDraft);
form.addEventListener("input", hideProblem);
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
part("language").addEventListener("click", switchLanguage);
part("key-button").addEventListener("click", () => askForKey());
part("key-dialog").addEventListener("close", useKey);
part("key-forget").addEventListener("click", () => part("key-dialog").close("forget"));
part("key-button").hidden = !store.key.get();
document.addEventListener("visibilitychange", () => document.hidden || refresh());

await refresh();
document.body.classList.add("ready");
setInterval(() => document.hidden || refresh(), REFRESH_MS);

/** Adapt the video size to a new picture. */
function turn(width, height) {
  hideProblem();
  settings.turn(height > width);
}

function changed() {
  const size = settings.size();
  for (const each of [picture, lastPicture]) if (size) each.fit(...size);
  part("last").hidden = !takesLast();
  showLength();
  part("prompt-count").value = `${prompt.value.length} / ${prompt.maxLength}`;
}

function takesLast() {
  return ["optional", "required"].includes(settings.model?.last_image);
}

/** Say if the video is longer than those that its model was trained with. */
function showLength() {
  const { model } = settings;
  const isLonger = model !== null && settings.values().num_frames > model.trained_frames;
  part("length-note").hidden = !isLonger;
  if (isLonger) part("length-note").textContent = text("lengthNote", model.id, model.trained_frames);
}

/** Learn which models the server serves, which may need a key. */
async function loadModels() {
  if (models().length) return;
  keepModels(await api.listModels().catch(() => []));
  if (models().length) settings.fill(store.draft.get());
}

/** Store the user's input of the form. */
function keepDraft() {
  store.draft.set({ prompt: prompt.value, ...settings.values() });
}

async function submit(event) {
  event.preventDefault();
  if (part("submit").ariaDisabled === "true") return;
  hideProblem();
  const problem = findProblem();
  if (problem) return;
  const wanted = { prompt: prompt.value, ...settings.values() };
  busy(true);
  try {
    const id = await api.submit(pictures(), wanted);
    const thumbnail = picture.thumbnail();
    if (thumbnail) store.thumbnails.keep(id, thumbnail);
    await gallery.refresh();
    announce(text("submitted"));
    if (matchMedia("(max-width: 56rem)").matches) part("jobs").scrollIntoView();
  } catch (refusal) {
    fail(refusal);
    if (refusal.field in INPUTS) part(INPUTS[refusal.field]).focus();
    else settings.show(refusal.field);
  } finally {
    busy(false);
  }
}

function pictures() {
  const last = takesLast() ? lastPicture.source : null;
  return { image: picture.source, ...(last && { last_image: last }) };
}

/** Show the first problem of the form; return whether there is one. */
function findProblem() {
  const least = fields.prompt.minLength;
  if (!picture.source) {
    show(picture.problem || text("pictureMissing"));
    part("picture-file").focus();
    return true;
  }
  if (takesLast() && !lastPicture.source) {
    const isNeeded = settings.model.last_image === "required";
    const problem = lastPicture.problem || (isNeeded ? text("lastMissing") : "");
    if (problem) {
      show(problem);
      part("last-picture-file").focus();
      return true;
    }
  }
  if (prompt.value.trim().length < least) {
    show(text("promptShort", least));
    prompt.focus();
    return true;
  }
  return false;
}

function busy(isBusy) {
  part("submit").ariaDisabled = isBusy; // `disabled` would remove the focus
  part("submit").textContent = text(isBusy ? "submitting" : "submit");
}

/**
 * Fill the form with a job of the list, for another take of it (a new seed) or exactly again.
 * The gallery calls this with `{ requestId, settings }`; the picture is the job's own.
 */
async function useSettings(job, { newSeed }) {
  const { prompt: words, seed, ...others } = job.settings;
  prompt.value = words;
  settings.fill(newSeed ? others : { seed, ...others });
  keepDraft();
  form.scrollIntoView({ block: "start" });
  prompt.focus({ preventScroll: true });
  announce(text("reused"));
}

/** Take a frame of a video as the picture of the next one. */
async function animate(frame) {
  await picture.take(frame);
  form.scrollIntoView({ block: "start" });
  prompt.focus({ preventScroll: true });
  toast(text("frameTaken"));
}

async function refresh() {
  try {
    const health = await api.health();
    await loadModels();
    await gallery.refresh();
    showServer(health);
  } catch (refusal) {
    showServer(refusal.status === 401 ? { status: "locked", ranks: [] } : null);
    if (refusal.status === 401 && !hasAsked) askAgain();
  }
}

function showServer(health) {
  if (health?.ranks.length && health.ranks.every((rank) => rank.device === "cpu")) {
    settings.offerTiny({ now: Object.keys(store.draft.get()).length === 0 });
  }
  const state = health?.status ?? "lost";
  const line = [text(`server.${state}`), ...loadOf(health)].join(" · ");
  // Write only changes, because screen readers read them aloud.
  if (part("server").textContent !== line) part("server").textContent = line;
  part("server").dataset.state = state;
}

/** What the server is doing; a group that still has to stop runs no video for anyone. */
function loadOf(health) {
  const stopping = health?.stopping ?? 0;
  const running = (health?.running ?? 0) - stopping;
  const parts = [];
  if (running || health?.queued) parts.push(text("server.busy", running, health.queued));
  if (stopping) parts.push(text("server.stopping", stopping));
  return parts;
}

function switchLanguage() {
  speak(language() === "en" ? "zh" : "en");
  store.language.set(language());
  showLanguageButton();
  picture.translate();
  lastPicture.translate();
  showLength();
  settings.translate();
  gallery.translate();
  refresh();
}

function showLanguageButton() {
  const button = part("language");
  button.textContent = language() === "en" ? "中文" : "English";
  button.lang = language() === "en" ? "zh-CN" : "en";
}

function askForKey(note = "keyNote") {
  part("key-button").hidden = false;
  part("key-note").dataset.text = note;
  part("key-note").textContent = text(note);
  if (part("key-dialog").open) return;
  hasAsked = true;
  part("key-dialog").returnValue = ""; // else Escape would return the previous value
  part("key-dialog").showModal();
}

/** Ask for a key, or for another key if the server refused the stored one. */
function askAgain() {
  askForKey(store.key.get() ? "keyWrong" : "keyNote");
}

function useKey() {
  const { returnValue } = part("key-dialog");
  if (returnValue === "use") {
    store.key.set(part("key").value.trim());
    hasAsked = false;
  }
  if (returnValue === "forget") store.key.set("");
  part("key").value = "";
  if (returnValue) refresh();
}

function fail(refusal) {
  if (refusal.status === 401) askAgain();
  show(refusal.message);
}

function show(problem) {
  part("problem").textContent = problem;
  part("problem").hidden = false;
  part("problem").scrollIntoView({ block: "nearest" });
}

function hideProblem() {
  part("problem").hidden = true;
}

function announce(sentence) {
  part("news").textContent = sentence;
}
