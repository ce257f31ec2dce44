// Sends the form: a job for each picture and each seed.

import * as api from "./api.js";
import { thumbnails } from "./store.js";

/** Submit the jobs one by one; call `sent` after each. Throws a Refusal at the first refused one. */
export async function sendAll(jobs, sent) {
  for (const { pictures, values, thumbnail } of jobs) {
    const id = await api.submit(pictures, values);
    if (thumbnail) thumbnails.keep(id, thumbnail);
    sent();
  }
}

/** Return what to send for each video: of each picture as many as wanted. */
export async function jobsOf({ picture, lastPicture, prompt, settings, number }) {
  const size = settings.size();
  const values = { prompt, ...settings.values() };
  const [last] = lastPicture ? await lastPicture.sources(size) : [];
  const sources = await picture.sources(size);
  return sources.flatMap((source) =>
    Array.from({ length: number }, (_, index) => ({
      pictures: { image: source.picture, ...(last && { last_image: last.picture }) },
      values: { ...values, seed: settings.drawSeed(index) },
      thumbnail: source.thumbnail,
    })),
  );
}
