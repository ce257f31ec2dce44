// Submits a failed job again, with its own picture and settings.

import * as api from "./api.js";

/** Submit the job of a card once more; with another seed where the seed may be at fault. */
export async function tryAgain({ id, job, settings }) {
  const { seed, loras, ...others } = settings;
  const wanted = Object.entries(others).filter(([, value]) => value !== null);
  if (job.error_code !== "not_finite") wanted.push(["seed", seed]);
  if (loras?.length) wanted.push(["loras", JSON.stringify(loras)]);
  const kept = await api.download(`/videos/${id}.input.webp`);
  const image = new File([kept], "picture.webp", { type: kept.type });
  return api.submit({ image }, Object.fromEntries(wanted));
}
