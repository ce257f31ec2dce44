// What a card says of its job, in the page's language.

import { framesPerSecond } from "./models.js";
import { parseSize } from "./size.js";
import { clock, duration, text, textOr } from "./texts.js";

const DAY_S = 86_400;
const LONGEST_FILE_NAME = 60;
// What file systems do not take, and characters without a shape of their own.
const UNSAFE = /[\\/:*?"<>|%\s\p{Cc}\p{Cf}]+/gu;
const ENDED = ["Succeed", "Failed", "Cancelled"];

export const isEnded = (job) => ENDED.includes(job?.status);

/** Why the job failed, what it waits for, or how far it is; `ageS` is the age of the job's state. */
export function progressOf(job, ageS) {
  if (job.status === "Failed") return failureOf(job);
  if (job.warning) return text(`warning.${job.warning}`);
  if (isEnded(job)) return "";
  if (job.reason) return text(job.status === "InQueue" ? "waitsForModel" : "waitsForStorage", job.model);
  const parts = [];
  if (job.status === "InQueue" && job.queue_position) {
    parts.push(text("position", job.queue_position));
  }
  if (job.status === "InProgress" && job.stage) parts.push(text(`stage.${job.stage}`));
  if (job.stage === "denoise" && job.step) parts.push(text("step", job.step, job.num_steps));
  const left = job.eta_s === null ? 0 : job.eta_s - ageS;
  // Nothing is said of an estimate that was too short.
  if (left > 0) parts.push(text(job.status === "InQueue" ? "doneIn" : "left", duration(left)));
  return parts.join(" · ");
}

function failureOf(job) {
  const { error_code: code, reason } = job;
  return textOr(`failure.${code}`, textOr(`error.${code}`, reason ?? text("failure.internal")));
}

/** What the video is: size, length, model, and when it was asked for. */
export function detailsOf(job, settings) {
  const parts = [];
  if (settings) {
    const [width, height] = parseSize(settings.image_size);
    const fps = framesPerSecond(settings.model);
    parts.push(`${width} × ${height}`, text("frames", settings.num_frames, fps));
  }
  if (job.model) parts.push(job.model);
  if (job.notice) parts.push(text("longer"));
  parts.push(clock(job.created_at));
  return parts.join(" · ");
}

/** How the video is made: seed, steps, guidance and, at the end, the time taken. */
export function makingOf(job, settings) {
  const parts = settings ? settingsOf(settings) : [];
  const { queue, ...stages } = job.stage_s;
  const taken = Object.values(stages).reduce((sum, seconds) => sum + seconds, 0);
  if (isEnded(job) && taken) parts.push(text("tookTime", duration(taken)));
  return parts.join(" · ");
}

/** The settings in which takes of one picture usually differ. */
export function settingsOf(settings) {
  const guidance = [settings.guidance_scale, settings.guidance_scale_2].filter(Number.isFinite);
  const loras = settings.loras ?? [];
  return [
    text("seedIs", settings.seed),
    text("steps", settings.infer_steps),
    text("guidanceIs", guidance.map((scale) => scale.toFixed(1)).join(" / ")),
    ...loras.map(({ name, strength }) => `${name} × ${strength}`),
  ];
}

/** How long the server keeps the job, and whether it is about to go. */
export function expiryOf(job) {
  if (job.kept) return { sentence: text("kept"), isNear: false };
  if (!job.expires_at) return { sentence: "", isNear: false };
  const left = job.expires_at - Date.now() / 1000;
  const near = Math.min(DAY_S, (job.expires_at - job.updated_at) / 4);
  if (left <= 0) return { sentence: text("expired"), isNear: true };
  if (left < near) return { sentence: text("expiresIn", duration(left)), isNear: true };
  return { sentence: text("keptUntil", clock(job.expires_at)), isNear: false };
}

/** What the video is called as a file, without its ending; the server calls it the same. */
export function fileNameOf(id, settings) {
  if (!settings) return id;
  const title = settings.prompt.normalize().replace(UNSAFE, " ").replace(/^[ .]+|[ .]+$/g, "");
  const start = title.slice(0, LONGEST_FILE_NAME + 1);
  const isCut = title.length > LONGEST_FILE_NAME;
  const end = isCut ? start.lastIndexOf(" ") : -1;
  return `${end > 0 ? start.slice(0, end) : title.slice(0, LONGEST_FILE_NAME)} (seed ${settings.seed})`;
}
