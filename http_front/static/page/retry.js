// Submits a failed job again, with its own pictures and settings.

import * as api from "./api.js";
import { sentPictures } from "./store.js";

// Of the jobs that are being submitted again, until the server has answered.
const requestKeys = new Map();

/**
 * Submit the job of a card once more, with another seed where the seed may be at fault.
 *
 * Returns whether its pictures are still known; if not, someone has to choose them again.
 */
export async function tryAgain({ id, job, settings }) {
  const pictures = sentPictures.get(id) ?? (await api.picturesOf(job));
  if (!pictures) return false;
  const { seed, loras, ...others } = settings;
  const wanted = Object.entries(others).filter(([, value]) => value !== null);
  if (!needsSeed(job)) wanted.push(["seed", seed]);
  if (loras?.length) wanted.push(["loras", JSON.stringify(loras)]);
  if (!requestKeys.has(id)) requestKeys.set(id, api.newRequestKey());
  await api.submit(pictures, Object.fromEntries(wanted), requestKeys.get(id));
  requestKeys.delete(id);
  return true;
}

/** Whether a failed job needs another seed. */
export const needsSeed = (job) => job.error_code === "not_finite";
