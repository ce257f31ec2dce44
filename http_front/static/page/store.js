// What this browser remembers: its jobs, the draft in the form, the key, the language.

const MAX_JOBS = 100;

function read(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise; // storage is off, or holds something else
  }
}

function write(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
  } catch {
    // Full or off: the page works on, and forgets at the next load.
  }
}

/** The jobs that this browser has submitted, by id: their settings and a small picture. */
export const jobs = {
  all: () => read("wan.jobs", {}),

  keep(id, job) {
    const entries = [[id, job], ...Object.entries(this.all())];
    write("wan.jobs", Object.fromEntries(entries.slice(0, MAX_JOBS)));
  },

  forget(id) {
    const { [id]: _, ...others } = this.all();
    write("wan.jobs", others);
  },
};

function single(name, otherwise) {
  return { get: () => read(name, otherwise), set: (value) => write(name, value) };
}

export const draft = single("wan.draft", {});
export const key = single("wan.key", "");
export const language = single("wan.language", "");
