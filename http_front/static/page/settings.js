// The settings of a video: model, presets, size, and a control for each other field.

import { makeControl } from "./controls.js";
import { makeLoraControl } from "./loras.js";
import { fieldsOf, modelNamed, models, takesSize } from "./models.js";
import { addUsual } from "./negative.js";
import { makePresets, presetsFor } from "./presets.js";
import { ruleOf } from "./rules.js";
import { hideUnused, markChanges, place } from "./sections.js";
import { makeSeedControl } from "./seed.js";
import { Shapes } from "./shapes.js";
import { makeSizeControl, parseSize } from "./size.js";

const ELSEWHERE = ["prompt", "image", "image_url", "last_image", "last_image_url"];
const ON_THEIR_OWN = ["image_size", "model", "loras", "seed"];
const FOR_PROGRAMS = ["callback_url", "priority"];

export class Settings {
  #controls = new Map();
  #fields;
  #size;
  #shapes;
  #model = document.getElementById("setting-model");
  #presets;
  #usualNegative;
  #hasDraft = false;

  /** Whether the visitor has chosen any of them on this page. */
  areChosen = false;

  /** `fields` are the server's fields of a job; `changed` is called after each change. */
  constructor(fields, { changed }) {
    this.#fields = fields;
    this.#size = makeSizeControl(fields.image_size.default);
    this.#controls.set("image_size", this.#size);
    this.#controls.set("seed", makeSeedControl(fields.seed));
    for (const [name, schema] of Object.entries(fields)) {
      if ([...ELSEWHERE, ...ON_THEIR_OWN, ...FOR_PROGRAMS].includes(name)) continue;
      this.#controls.set(name, makeControl(name, schema));
    }
    this.#controls.set("loras", makeLoraControl(fields.loras));
    place(this.#controls);
    this.#usualNegative = addUsual(
      this.#controls.get("negative_prompt"),
      () => this.model?.usual_negative_prompt,
    );
    this.#presets = presetsFor(fields, null);
    makePresets(Object.keys(this.#presets), (name) => {
      this.areChosen = true;
      this.#usePreset(name);
    });
    this.#shapes = new Shapes(() => {
      this.areChosen = true;
      this.#shape();
    });
    this.changed = changed;
    this.#model.addEventListener("input", () => this.#useModel());
    for (const box of [this.#model, ...this.#boxes]) {
      box.addEventListener("input", () => (this.areChosen = true));
    }
    this.#size.box.addEventListener("input", () => this.#shapes.forget());
    document.getElementById("form").addEventListener("input", () => this.#show());
    this.#limit();
    this.translate();
  }

  /** The chosen model; null before any is known. */
  get model() {
    return modelNamed(this.#model.value);
  }

  /** Whether each setting is the model's default. */
  get areDefault() {
    const isUsual = (control) =>
      control === this.#size
        ? control.get() === this.#shaped(this.#usualSize)
        : control.box.hidden || control.isDefault();
    return [...this.#controls.values()].every(isUsual);
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

  /** Return the seed of a video, by its number among those of one go: a new one or the kept one. */
  drawSeed(number) {
    const control = this.#controls.get("seed");
    return control.get() ? control.following(number) : control.draw();
  }

  /** Set the values of another job, and clear the values that it does not set. */
  fill(values) {
    this.#shapes.forget();
    this.#set(values);
    this.areChosen = true;
  }

  /** Set the values of a draft, which may be empty, unless the visitor has chosen others since. */
  restore(draft) {
    if (this.areChosen) {
      this.offerModels(draft.model);
      return;
    }
    this.#hasDraft = Object.keys(draft).length > 0;
    this.#set(draft);
    this.#followPicture();
    this.#propose();
  }

  /** Set the defaults of the chosen model. */
  reset() {
    this.fill({ model: this.#model.value, image_size: this.#shaped(this.#usualSize) });
  }

  /** Offer a preset that a server without accelerators runs in reasonable time. */
  offerTiny() {
    if (!this.#tiny.hidden) return;
    this.#tiny.hidden = false;
    this.#propose();
  }

  /** Give the video the ratio of a new picture, or let it lie or stand as that does. */
  turn(pictureSize, { keepsSize = false } = {}) {
    this.#shapes.picture = pictureSize;
    if (keepsSize) this.#show();
    else this.#followPicture();
  }

  /** Return width and height; null if the size is wrong. */
  size() {
    return this.#size.isWrong() ? null : parseSize(this.#size.get());
  }

  /** Return the problems of the controls: the input of each, and what it may hold. */
  problems() {
    return [...this.#controls]
      .filter(([, control]) => !control.box.hidden && control.isWrong())
      .map(([name, control]) => ({ input: control.input, sentence: this.rule(name) }));
  }

  /** Return what a field may hold, in words; null if it has no control. */
  rule(name) {
    if (!this.#controls.has(name)) return null;
    const schema = fieldsOf(this.#fields, this.model)[name];
    const kinds = (schema.anyOf ?? [schema]).filter((kind) => kind.type !== "null");
    return ruleOf(name, kinds[0], this.model);
  }

  /** Unfold the section of a field; return its input, null if there is none. */
  reveal(name) {
    if (name === "model") return this.#model;
    const control = this.#controls.get(name);
    if (!control || control.box.hidden) return null;
    const section = control.box.closest("details");
    if (section) section.open = true;
    return control.input;
  }

  translate() {
    for (const control of this.#controls.values()) control.translate();
    this.#shapes.translate();
    this.#show();
  }

  get #usualSize() {
    return fieldsOf(this.#fields, this.model).image_size.default;
  }

  get #boxes() {
    return [...this.#controls.values()].map(({ box }) => box);
  }

  /** The preset's place among the others, hidden until it is offered. */
  get #tiny() {
    return document.getElementById("preset-tiny").parentElement;
  }

  /** Choose Tiny where it is offered and nothing else was chosen, now or on an earlier visit. */
  #propose() {
    if (!this.#tiny.hidden && !this.#hasDraft && !this.areChosen) this.#usePreset("tiny");
  }

  #set(values) {
    if (models().length) this.offerModels(values.model);
    for (const [name, control] of this.#controls) {
      const isSize = control === this.#size && parseSize(values[name] ?? "") !== null;
      if (isSize) control.use(values[name].replace("x", "*"));
      else control.set(values[name]);
    }
    this.#show();
  }

  #useModel() {
    this.#limit();
    this.#show();
  }

  /** Give each control the range and the default of the chosen model. */
  #limit() {
    const model = this.model;
    this.#presets = presetsFor(this.#fields, model);
    const fields = fieldsOf(this.#fields, model);
    this.#size.limit(model, this.#shaped(this.#usualSize));
    for (const [name, control] of this.#controls) {
      if (control !== this.#size) control.limit(fields[name], model?.frames_per_second ?? 16);
    }
    this.#controls.get("loras").offer(model?.loras ?? []);
    for (const [name, preset] of Object.entries(this.#presets)) {
      const isTaken = takesSize(model, parseSize(preset.image_size));
      document.getElementById(`preset-${name}`).disabled = !isTaken;
    }
  }

  #usePreset(name) {
    const { image_size: size, ...others } = this.#presets[name];
    this.#size.use(this.#shaped(size));
    for (const [field, value] of Object.entries(others)) this.#controls.get(field).set(value);
    this.#show();
  }

  #followPicture() {
    if (this.#size.lists(this.#size.get())) this.#shape();
    else this.#show();
  }

  #shape() {
    const size = this.#size.isWrong() ? this.#usualSize : this.#size.get().replace("x", "*");
    this.#size.use(this.#shaped(size));
    this.#show();
  }

  #shaped(size) {
    return this.#shapes ? this.#shapes.shaped(size, this.model) : size;
  }

  /** Show what depends on the values. */
  #show() {
    hideUnused(this.#controls, this.model);
    markChanges(this.#controls);
    this.#usualNegative.show();
    this.#shapes.mark(this.size());
    this.#markPreset();
    this.changed();
  }

  #markPreset() {
    const values = this.values();
    for (const [name, preset] of Object.entries(this.#presets)) {
      const wanted = { ...preset, image_size: this.#shaped(preset.image_size) };
      const matches = Object.entries(wanted).every(([field, value]) => values[field] === value);
      document.getElementById(`preset-${name}`).checked = matches;
    }
  }
}
