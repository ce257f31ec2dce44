// The settings of a video: presets, size, and a control for each other field.

import { makeControl } from "./controls.js";
import { text } from "./texts.js";

const IN_SIGHT = ["num_frames"];
const ELSEWHERE = ["prompt", "image", "image_url", "image_size"];
const FOR_PROGRAMS = ["callback_url", "priority"];
const SIZES = [
  ...["1280*720", "720*1280", "960*960", "832*480", "480*832", "640*640"],
  ...["256*256", "128*128"],
];
const PRESETS = {
  tiny: { image_size: "128*128", num_frames: "24", infer_steps: "20" },
  draft: { image_size: "832*480", num_frames: "49", infer_steps: "20" },
  standard: { image_size: "1280*720", num_frames: "81", infer_steps: "30" },
  fine: { image_size: "1280*720", num_frames: "81", infer_steps: "50" },
};

/** Return width and height of `W*H`; null if the text has another form. */
export function parseSize(size) {
  const found = /^(\d{1,5})[*x](\d{1,5})$/.exec(size);
  return found && [Number(found[1]), Number(found[2])];
}

export class Settings {
  #controls = new Map();
  #size;
  #isPortrait = false;

  /** `fields` are the server's fields of a job; `changed` is called after each change. */
  constructor(fields, { changed }) {
    this.#size = makeSizeControl(fields.image_size.default);
    this.#controls.set("image_size", this.#size);
    for (const [name, schema] of Object.entries(fields)) {
      if ([...ELSEWHERE, ...FOR_PROGRAMS].includes(name)) continue;
      this.#controls.set(name, makeControl(name, schema));
    }
    this.#place();
    makePresets(Object.keys(PRESETS), (name) => this.#usePreset(name));
    document.getElementById("form").addEventListener("input", () => {
      this.#markPreset();
      changed();
    });
    this.changed = changed;
    this.translate();
  }

  /** Return the values that are set, in the form that the server expects. */
  values() {
    const values = [...this.#controls].map(([name, control]) => [name, control.get()]);
    return Object.fromEntries(values.filter(([, value]) => value !== ""));
  }

  /** Set the values of another job, and clear the values that it does not set. */
  fill(values) {
    for (const [name, control] of this.#controls) control.set(values[name]);
    this.#markPreset();
    this.changed();
  }

  /** Offer a preset that a server without accelerators runs in reasonable time. */
  offerTiny({ now }) {
    const label = document.getElementById("preset-tiny").parentElement;
    if (label.hidden && now) this.#usePreset("tiny");
    label.hidden = false;
  }

  /** Turn a listed size to the orientation of the picture. */
  turn(isPortrait) {
    this.#isPortrait = isPortrait;
    if (SIZES.includes(this.#size.get())) this.#size.set(this.#turned(this.#size.get()));
    this.changed();
  }

  size() {
    return parseSize(this.#size.get());
  }

  /** Unfold the section of a field and focus the field. */
  show(name) {
    const control = this.#controls.get(name);
    if (!control) return;
    const details = control.box.closest("details");
    if (details) details.open = true;
    control.input.focus();
  }

  translate() {
    for (const control of this.#controls.values()) control.translate();
    this.#markPreset();
  }

  #place() {
    const [near, far] = ["settings", "more-settings"].map((id) => document.getElementById(id));
    near.append(this.#size.box);
    for (const [name, control] of this.#controls) {
      if (control !== this.#size) (IN_SIGHT.includes(name) ? near : far).append(control.box);
    }
  }

  #usePreset(name) {
    const preset = { ...PRESETS[name] };
    preset.image_size = this.#turned(preset.image_size);
    for (const [field, value] of Object.entries(preset)) this.#controls.get(field).set(value);
    this.#markPreset();
    this.changed();
  }

  #turned(size) {
    const [width, height] = parseSize(size);
    if (width === height) return size;
    return this.#isPortrait === height > width ? size : `${height}*${width}`;
  }

  #markPreset() {
    const values = this.values();
    for (const [name, preset] of Object.entries(PRESETS)) {
      const wanted = { ...preset, image_size: this.#turned(preset.image_size) };
      const matches = Object.entries(wanted).every(([field, value]) => values[field] === value);
      document.getElementById(`preset-${name}`).checked = matches;
    }
  }
}

function makePresets(names, use) {
  const row = document.getElementById("presets");
  for (const name of names) {
    const label = document.createElement("label");
    label.hidden = name === "tiny";
    const radio = Object.assign(document.createElement("input"), {
      type: "radio",
      name: "preset",
      id: `preset-${name}`,
    });
    const caption = document.createElement("span");
    caption.dataset.text = `preset.${name}`;
    caption.textContent = text(`preset.${name}`);
    radio.addEventListener("input", (event) => {
      event.stopPropagation(); // the other controls change, not this one
      use(name);
    });
    label.append(radio, caption);
    row.append(label);
  }
}

/** Return a control with the listed sizes and an input for any other size. */
function makeSizeControl(usual) {
  const control = makeControl("image_size", { enum: [...SIZES, "other"], default: usual });
  const custom = Object.assign(document.createElement("input"), {
    type: "text",
    placeholder: "1024*576",
    hidden: true,
  });
  custom.setAttribute("aria-labelledby", "setting-image_size");
  const select = control.input;
  for (const option of select.options) option.text = option.value.replace("*", " × ");
  select.addEventListener("input", () => (custom.hidden = select.value !== "other"));
  control.box.append(custom);
  const { translate } = control;
  return Object.assign(control, {
    get: () => (select.value === "other" ? custom.value.trim() : select.value),
    set(size = usual) {
      const isUsual = SIZES.includes(size);
      select.value = isUsual ? size : "other";
      custom.value = isUsual ? "" : size;
      custom.hidden = isUsual;
    },
    translate() {
      translate.call(control);
      select.options[SIZES.length].text = text("customSize");
    },
  });
}
