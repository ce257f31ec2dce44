// What this browser remembers: small pictures, the draft in the form, the key, the language.

const MAX_THUMBNAILS = 100;

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

/** The small pictures of what this browser has submitted, by job: the server keeps none of them. */
export const thumbnails = {
  all: () => read("wan.thumbnails", {}),

  keep(id, picture) {
    const entries = [[id, picture], ...Object.entries(this.all())];
    write("wan.thumbnails", Object.fromEntries(entries.slice(0, MAX_THUMBNAILS)));
  },
};

function single(name, otherwise) {
  return { get: () => read(name, otherwise), set: (value) => write(name, value) };
}

export const draft = single("wan.draft", {});
export const key = single("wan.key", "");
export const language = single("wan.language", "");
