// Sends the form: a job for each picture and each seed.

import * as api from "./api.js";
import { thumbnails } from "./store.js";

export class Sending {
  #form = null;
  #jobs = [];

  /** How many jobs of the latest form the server has not taken. */
  get numLeft() {
    return this.#jobs.length;
  }

  /**
   * Submit the jobs of a filled form one by one; call `sent` after each.
   *
   * Throws a Refusal at the first one that is refused or not answered. The same form then goes on
   * with that job, under its key: the server may have taken it.
   */
  async send(form, sent) {
    const filled = describe(form);
    if (!this.#jobs.length || this.#form !== filled) this.#jobs = await jobsOf(form);
    this.#form = filled;
    while (this.#jobs.length) {
      const [{ pictures, values, thumbnail, requestKey }] = this.#jobs;
      const id = await api.submit(pictures, values, requestKey);
      if (thumbnail) thumbnails.keep(id, thumbnail);
      this.#jobs.shift();
      sent();
    }
  }
}

/** Return what tells one form from another: all that makes its videos, but no drawn seed. */
function describe({ picture, lastPicture, prompt, settings, number }) {
  const pictures = [picture, lastPicture].map((each) => each?.description ?? null);
  return JSON.stringify([prompt, settings.values(), number, pictures]);
}

/** Return what to send for each video: of each picture as many as wanted. */
async function jobsOf({ picture, lastPicture, prompt, settings, number }) {
  const size = settings.size();
  const values = { prompt, ...settings.values() };
  const [last] = lastPicture ? await lastPicture.sources(size) : [];
  const sources = await picture.sources(size);
  return sources.flatMap((source) =>
    Array.from({ length: number }, (_, index) => ({
      pictures: { image: source.picture, ...(last && { last_image: last.picture }) },
      values: { ...values, seed: settings.drawSeed(index) },
      thumbnail: source.thumbnail,
      requestKey: api.newRequestKey(),
    })),
  );
}
