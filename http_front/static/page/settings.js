// The settings of a video: model, presets, size, and a control for each other field.

import { makeControl } from "./controls.js";
import { makeLoraControl } from "./loras.js";
import { fieldsOf, modelNamed, models, takesSize } from "./models.js";
import { makeSizeControl, parseSize } from "./size.js";
import { text } from "./texts.js";

const IN_SIGHT = ["num_frames"];
const ELSEWHERE = ["prompt", "image", "image_url", "last_image", "last_image_url"];
const NOT_DISTILLED = ["guidance_scale", "negative_prompt", "use_attentioncache"];
const ON_THEIR_OWN = ["image_size", "model", "loras"];
const FOR_PROGRAMS = ["callback_url", "priority"];

/** Return the presets for a model; null takes the ranges and defaults in the fields. */
function presetsFor(fields, model) {
  const own = fieldsOf(fields, model);
  const [frames, steps] = [own.num_frames, own.infer_steps];
  const within = ({ minimum, maximum }, value) =>
    String(Math.min(maximum, Math.max(minimum, Math.round(value))));
  // A distilled model is made for its own number of steps.
  const scaled = (factor) => within(steps, steps.default * (model?.is_distilled ? 1 : factor));
  const usual = own.image_size.default;
  return {
    tiny: {
      image_size: "128*128",
      num_frames: within(frames, 24),
      infer_steps: within(steps, Math.min(20, steps.default)),
    },
    draft: {
      image_size: "832*480",
      num_frames: within(frames, frames.default * 0.6),
      infer_steps: scaled(2 / 3),
    },
    standard: {
      image_size: usual,
      num_frames: String(frames.default),
      infer_steps: String(steps.default),
    },
    fine: {
      image_size: usual,
      num_frames: String(frames.default),
      infer_steps: scaled(5 / 3),
    },
  };
}

export class Settings {
  #controls = new Map();
  #fields;
  #size;
  #model = document.getElementById("setting-model");
  #presets;
  #isPortrait = false;

  /** `fields` are the server's fields of a job; `changed` is called after each change. */
  constructor(fields, { changed }) {
    this.#fields = fields;
    this.#size = makeSizeControl(fields.image_size.default);
    this.#controls.set("image_size", this.#size);
    for (const [name, schema] of Object.entries(fields)) {
      if ([...ELSEWHERE, ...ON_THEIR_OWN, ...FOR_PROGRAMS].includes(name)) continue;
      this.#controls.set(name, makeControl(name, schema));
    }
    this.#controls.set("loras", makeLoraControl(fields.loras));
    this.#place();
    this.#presets = presetsFor(fields, null);
    makePresets(Object.keys(this.#presets), (name) => this.#usePreset(name));
    this.changed = changed;
    this.#model.addEventListener("input", () => this.#useModel());
    document.getElementById("form").addEventListener("input", () => {
      this.#markPreset();
      this.changed();
    });
    this.#limit();
    this.translate();
  }

  /** The chosen model; null before any is known. */
  get model() {
    return modelNamed(this.#model.value);
  }

  /** Offer the models that the server serves now; one alone needs no choice. */
  offerModels(wanted = this.#model.value) {
    const names = models().map((model) => model.id);
    if (names.join() !== [...this.#model.options].map((option) => option.value).join()) {
      this.#model.replaceChildren(...names.map((name) => new Option(name, name)));
    }
    this.#model.value = modelNamed(wanted)?.id ?? "";
    this.#model.parentElement.hidden = names.length < 2;
    this.#useModel();
  }

  /** Return the values that are set, in the form that the server expects. */
  values() {
    const values = [...this.#controls].map(([name, control]) => [
      name,
      control.box.hidden ? "" : control.get(),
    ]);
    if (models().length > 1) values.push(["model", this.#model.value]);
    return Object.fromEntries(values.filter(([, value]) => value !== ""));
  }

  /** Set the values of another job, and clear the values that it does not set. */
  fill(values) {
    if (models().length) this.offerModels(values.model);
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
    if (this.#size.lists(this.#size.get())) this.#size.set(this.#turned(this.#size.get()));
    this.changed();
  }

  size() {
    return parseSize(this.#size.get());
  }

  /** Unfold the section of a field and focus the field. */
  show(name) {
    if (name === "model") this.#model.focus();
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

  #useModel() {
    this.#limit();
    this.#markPreset();
    this.changed();
  }

  /** Give each control the range and the default of the chosen model. */
  #limit() {
    const model = this.model;
    this.#presets = presetsFor(this.#fields, model);
    const fields = fieldsOf(this.#fields, model);
    const usual = this.#turned(fields.image_size.default);
    this.#size.limit(model, usual);
    for (const [name, control] of this.#controls) {
      if (control !== this.#size) control.limit(fields[name], model?.frames_per_second ?? 16);
    }
    this.#controls.get("loras").offer(model?.loras ?? []);
    this.#controls.get("guidance_scale_2").box.hidden = !model?.has_second_guidance;
    for (const name of ["step_cache", "step_cache_threshold"]) {
      this.#controls.get(name).box.hidden = !model?.step_caches.length;
    }
    for (const name of NOT_DISTILLED) {
      this.#controls.get(name).box.hidden = Boolean(model?.is_distilled);
    }
    for (const [name, preset] of Object.entries(this.#presets)) {
      const isTaken = takesSize(model, parseSize(preset.image_size));
      document.getElementById(`preset-${name}`).disabled = !isTaken;
    }
  }

  #usePreset(name) {
    const preset = { ...this.#presets[name] };
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
    for (const [name, preset] of Object.entries(this.#presets)) {
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
