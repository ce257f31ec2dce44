// Data stored in this browser: thumbnails, the draft of the form, the API key and the language.

const MAX_THUMBNAILS = 100;

function read(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise; // storage is off or holds an invalid value
  }
}

function write(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
  } catch {
    // Storage is full or off. The page still works, but forgets the value at the next load.
  }
}

/** Thumbnails of the pictures submitted from this browser, by job. */
export const thumbnails = {
  all: () => read("wan.thumbnails", {}),

  keep(id, picture) {
    const entries = [[id, picture], ...Object.entries(this.all())];
    write("wan.thumbnails", Object.fromEntries(entries.slice(0, MAX_THUMBNAILS)));
  },
};

const sent = new Map();

/** The pictures that this page has sent, by job: files, which no storage could hold. */
export const sentPictures = {
  get: (id) => sent.get(id),

  keep(id, pictures) {
    sent.set(id, pictures);
    if (sent.size > MAX_THUMBNAILS) sent.delete(sent.keys().next().value);
  },
};

function single(name, otherwise) {
  return { get: () => read(name, otherwise), set: (value) => write(name, value) };
}

export const draft = single("wan.draft", {});
export const key = single("wan.key", "");
export const language = single("wan.language", "");
/** The videos that this browser has seen, by job: name, createdAt and expiresAt. */
export const known = single("wan.known", {});
/** Names of those that have expired since, until the visitor has read it. */
export const expired = single("wan.expired", []);
