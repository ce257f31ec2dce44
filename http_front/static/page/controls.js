// Makes a control for each field of a job from the field's schema: type, range and default.

import { language, text, textOr } from "./texts.js";

const SLIDERS = {
  num_frames: { step: 1, shown: (value, fps) => text("frames", value, fps) },
  infer_steps: { step: 1, shown: (value) => text("steps", value) },
  guidance_scale: { step: 0.5, shown: (value) => Number(value).toFixed(1) },
};
const LONG_TEXT = 100;

/** Return a labelled control. `get` and `set` use text; "" means no value. */
export function makeControl(name, schema) {
  let field = unwrap(schema);
  let fps = 16;
  const input = makeInput(name, field);
  input.id = `setting-${name}`;
  input.name = name;
  const box = document.createElement("div");
  box.className = "field";
  const label = document.createElement("label");
  label.htmlFor = input.id;
  const caption = document.createElement("span");
  const shown = document.createElement("span");
  shown.className = "count";
  shown.ariaHidden = "true"; // screen readers read the slider's value instead
  label.append(caption, shown);
  box.append(label, input);

  const translateOptions = () => {
    for (const option of input.options ?? []) translateOption(option, field);
  };
  const control = {
    box,
    input,
    get: () => (input.type === "checkbox" ? String(input.checked) : input.value.trim()),
    set(value) {
      const chosen = value ?? field.default ?? "";
      if (input.type === "checkbox") input.checked = String(chosen) === "true";
      else input.value = chosen;
      this.show();
    },
    isDefault: () => control.get() === String(field.default ?? ""),
    /** Whether it holds what the field does not take, or a number that is none. */
    isWrong: () => !input.validity.valid || isTooLong(input, field),
    show() {
      if (input.localName === "textarea") countLetters(shown, input, field);
      if (!(name in SLIDERS)) return;
      shown.textContent = SLIDERS[name].shown(input.value, fps);
      input.ariaValueText = shown.textContent;
    },
    /** Take the range and default of another model; a value that it does not take is replaced. */
    limit(schema, framesPerSecond) {
      const isDefault = this.isDefault();
      [field, fps] = [unwrap(schema), framesPerSecond];
      const value = this.get();
      if (field.enum) setOptions(input, choices(field), value);
      else if (input.type === "range" || input.type === "number") setRange(input, field);
      translateOptions();
      if (isDefault || this.get() !== value || !input.validity.valid) this.set();
      else this.show();
    },
    translate() {
      caption.textContent = textOr(`label.${name}`, name);
      input.title = language() === "en" ? (field.description ?? "") : "";
      if (field.optional && input.type === "number") input.placeholder = openText(name);
      translateOptions();
      this.show();
    },
  };
  input.addEventListener("input", () => control.show());
  control.set();
  return control;
}

/** Return the schema of a field without the null alternative of an optional one. */
function unwrap(schema) {
  const kinds = (schema.anyOf ?? [schema]).filter((kind) => kind.type !== "null");
  return { ...kinds[0], default: schema.default, optional: schema.anyOf !== undefined };
}

function makeInput(name, field) {
  if (field.enum) return makeSelect(choices(field));
  if (field.type === "boolean" && field.optional) return makeSelect(["", "true", "false"]);
  if (field.type === "string" && field.maxLength > LONG_TEXT) {
    return Object.assign(document.createElement("textarea"), { rows: 2 });
  }
  const input = document.createElement("input");
  if (field.type === "boolean") input.type = "checkbox";
  else if (field.type === "string") input.type = "text";
  else makeNumeric(input, name, field);
  return input;
}

function makeNumeric(input, name, field) {
  input.type = name in SLIDERS ? "range" : "number";
  setRange(input, field);
  input.step = SLIDERS[name]?.step ?? (field.type === "integer" ? 1 : "any");
}

function isTooLong(input, { maxLength = Infinity }) {
  return lengthOf(input.value) > maxLength;
}

/** Return the number of characters as the server counts them. */
export function lengthOf(value) {
  return [...value].length;
}

/** Show how long a text is, once that is worth knowing, and whether it is too long. */
export function countLetters(shown, input, { maxLength }) {
  const length = lengthOf(input.value);
  shown.textContent = length ? `${length} / ${maxLength}` : "";
  shown.classList.toggle("bad", length > maxLength);
}

function setRange(input, field) {
  input.min = field.minimum ?? field.exclusiveMinimum ?? "";
  input.max = field.maximum ?? "";
}

function setOptions(select, values, chosen) {
  select.replaceChildren(...values.map((value) => new Option(value, value)));
  select.value = chosen;
}

function choices(field) {
  return field.optional ? ["", ...field.enum] : field.enum;
}

function makeSelect(values) {
  const select = document.createElement("select");
  setOptions(select, values, values[0]);
  return select;
}

function translateOption(option, field) {
  const names = { "": field.enum ? "no" : "isDefault", true: "yes", false: "no" };
  if (option.value in names) option.text = text(names[option.value]);
}

function openText(name) {
  return name === "seed" ? text("random") : text("isDefault");
}
