// Says which videos have gone because their time was over, also while the page was closed.

import * as api from "./api.js";
import { expired, known } from "./store.js";
import { text } from "./texts.js";

const MAX_NAMED = 3;

export class Expired {
  #note = document.getElementById("expired-note");

  constructor() {
    this.#note.querySelector("button").addEventListener("click", () => {
      expired.set([]);
      this.translate();
    });
    this.translate();
  }

  /** Compare the list with what this browser has seen; `isDeleted` tells what was deleted here. */
  async note(jobs, hasMore, isDeleted) {
    const seen = known.get();
    const listed = new Set(jobs.map((job) => job.requestId));
    const oldest = hasMore ? jobs.at(-1).created_at : 0;
    const gone = Object.entries(seen).filter(
      ([id, { createdAt }]) => !listed.has(id) && createdAt >= oldest,
    );
    for (const [id, { name, expiresAt }] of gone) {
      delete seen[id];
      if (!isDeleted(id) && (await hasExpired(id, expiresAt))) expired.set([...expired.get(), name]);
    }
    for (const job of jobs) {
      if (job.status !== "Succeed" || isDeleted(job.requestId)) continue;
      const name = job.settings?.prompt ?? job.requestId;
      seen[job.requestId] = { name, createdAt: job.created_at, expiresAt: job.expires_at };
    }
    known.set(seen);
    if (gone.length) this.translate();
  }

  /** Jobs that are deleted on purpose have not expired. */
  forget(ids) {
    const seen = known.get();
    for (const id of ids) delete seen[id];
    known.set(seen);
  }

  translate() {
    const names = expired.get();
    this.#note.hidden = names.length === 0;
    this.#note.querySelector("span").textContent = text(
      "haveExpired",
      names.length,
      names.slice(-MAX_NAMED).map(shorten),
    );
  }
}

/** Whether a job that is not listed any more was removed by the server itself. */
async function hasExpired(id, expiresAt) {
  if (expiresAt !== null && expiresAt * 1000 <= Date.now()) return true;
  const refusal = await api.status(id).then(
    () => null,
    (refusal) => refusal,
  );
  return refusal?.code === "job_expired";
}

function shorten(name) {
  return name.length > 40 ? `${name.slice(0, 40)}…` : name;
}
