// Says which videos have gone because their time was over, also while the page was closed.

import * as api from "./api.js";
import { expired, known } from "./store.js";
import { text } from "./texts.js";

const MAX_NAMED = 3;
// Missing jobs that the server is asked about at once: a key has a rate limit.
const MAX_ASKED = 5;

export class Expired {
  #note = document.getElementById("expired-note");
  #isBusy = false;

  constructor() {
    this.#note.querySelector("button").addEventListener("click", () => {
      expired.set([]);
      this.translate();
    });
    this.translate();
  }

  /** Compare the list with what this browser has seen; `isDeleted` tells what was deleted here. */
  async note(jobs, hasMore, isDeleted) {
    if (this.#isBusy) return;
    this.#isBusy = true;
    const seen = known.get();
    const listed = new Set(jobs.map((job) => job.requestId));
    const oldest = hasMore ? jobs.at(-1).created_at : 0;
    const missing = ([id, job]) => !listed.has(id) && (job.createdAt >= oldest || isOver(job));
    for (const [id, job] of Object.entries(seen).filter(missing).slice(0, MAX_ASKED)) {
      const fate = isDeleted(id) ? "deleted" : await fateOf(id, job);
      if (fate === "expired") expired.set([...expired.get(), job.name]);
      if (fate !== "unknown") delete seen[id];
    }
    for (const job of jobs) {
      if (job.status !== "Succeed" || isDeleted(job.requestId)) continue;
      const name = job.settings?.prompt ?? job.requestId;
      seen[job.requestId] = { name, createdAt: job.created_at, expiresAt: job.expires_at };
    }
    known.set(seen);
    this.#isBusy = false;
    this.translate();
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

const isOver = ({ expiresAt }) => expiresAt !== null && expiresAt * 1000 <= Date.now();

/** Return what has become of a job that is not listed: listed later, expired, deleted, unknown. */
async function fateOf(id, job) {
  try {
    await api.status(id);
    return "listed";
  } catch ({ status, code }) {
    if (status !== 404) return "unknown";
    return code === "job_expired" || isOver(job) ? "expired" : "deleted";
  }
}

function shorten(name) {
  return name.length > 40 ? `${name.slice(0, 40)}…` : name;
}
