// Puts the page together: form, videos, server state, language, API key.

import * as api from "./api.js";
import { offerExamples } from "./examples.js";
import { Form } from "./form.js";
import { Gallery } from "./gallery.js";
import { askForKey, askOnce, listenToKey } from "./key.js";
import { keepModels, models } from "./models.js";
import * as store from "./store.js";
import { language, preferredLanguage, speak, text } from "./texts.js";
import { toast } from "./toast.js";

const REFRESH_MS = 4000;
const MODELS_MS = 30_000;

const part = (id) => document.getElementById(id);
let modelsAt = -Infinity;

speak(store.language.get() || preferredLanguage());
showLanguageButton();
const form = new Form(await api.jobFields(), { fail, announce, submitted });
const gallery = new Gallery({ useSettings, useFrame, announce, fail });
offerExamples((file, words) => form.useExample(file, words));
await loadModels();

part("language").addEventListener("click", switchLanguage);
listenToKey(refresh);
document.addEventListener("visibilitychange", () => document.hidden || refresh());

await refresh();
document.body.classList.add("ready");
setInterval(() => document.hidden || refresh(), REFRESH_MS);

/**
 * Fill the form with a job of the list, for another take of it (a new seed) or exactly again.
 * The gallery calls this with `{ requestId, settings }`; the picture is the job's own.
 */
async function useSettings(job, { newSeed }) {
  await form.useJob(job, { newSeed });
}

/** Take a frame of a video, a PNG or JPEG file, as the picture of the next one. */
async function useFrame(file) {
  await form.usePicture(file);
  part("form").scrollIntoView({ block: "start" });
  part("prompt").focus({ preventScroll: true });
  toast(text("frameTaken"));
}

/** Learn which models the server serves, which may need a key, and how fast they are. */
async function loadModels() {
  if (models().length && performance.now() - modelsAt < MODELS_MS) return;
  const found = await api.listModels().catch(() => []);
  if (!found.length) return;
  const before = models().map((model) => model.id);
  keepModels(found);
  modelsAt = performance.now();
  if (!before.length) form.restoreSettings();
  else if (before.join() !== models().map((model) => model.id).join()) form.settings.offerModels();
  form.showEstimate();
}

async function submitted(number) {
  await gallery.refresh().catch(fail);
  announce(text("submitted", number));
  if (matchMedia("(max-width: 56rem)").matches) part("jobs").scrollIntoView();
}

async function refresh() {
  try {
    const health = await api.health();
    await loadModels();
    await gallery.refresh();
    showServer(health);
  } catch (refusal) {
    showServer(refusal.status === 401 ? { status: "locked", ranks: [] } : null);
    if (refusal.status === 401) askOnce();
  }
}

function showServer(health) {
  if (health?.ranks.length && health.ranks.every((rank) => rank.device === "cpu")) {
    form.settings.offerTiny();
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
  form.translate();
  gallery.translate();
  refresh();
}

function showLanguageButton() {
  const button = part("language");
  button.textContent = language() === "en" ? "中文" : "English";
  button.lang = language() === "en" ? "zh-CN" : "en";
}

function fail(refusal) {
  if (refusal.status === 401) askForKey();
  form.show(refusal.message);
}

function announce(sentence) {
  part("news").textContent = sentence;
}
