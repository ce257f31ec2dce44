// The LoRAs of a video: those of the model, each with a switch and a strength.

import { text } from "./texts.js";

/** Return a control like those of `makeControl`; `get` and `set` use JSON, "" means none. */
export function makeLoraControl(schema) {
  const box = document.createElement("fieldset");
  box.className = "field loras";
  box.id = "setting-loras";
  box.hidden = true;
  const caption = document.createElement("legend");
  const list = document.createElement("div");
  box.append(caption, list);
  let rows = [];

  const control = {
    box,
    input: box,
    get: () => {
      const chosen = rows.filter(({ isOn }) => isOn.checked);
      if (!chosen.length) return "";
      return JSON.stringify(
        chosen.map(({ name, strength }) => ({ name, strength: Number(strength.value) })),
      );
    },
    set(value) {
      const chosen = typeof value === "string" ? JSON.parse(value || "[]") : (value ?? []);
      for (const { name, isOn, strength } of rows) {
        const wanted = chosen.find((lora) => lora.name === name);
        isOn.checked = wanted !== undefined;
        strength.value = wanted?.strength ?? 1;
      }
      this.show();
    },
    /** No more than the most that a job may have can be chosen. */
    show() {
      const isFull = rows.filter(({ isOn }) => isOn.checked).length >= schema.maxItems;
      for (const { isOn, strength } of rows) {
        isOn.disabled = isFull && !isOn.checked;
        strength.disabled = !isOn.checked;
      }
    },
    /** Show the LoRAs of the chosen model, and keep what is chosen among them. */
    offer(loras) {
      const names = loras.map((lora) => lora.name);
      box.hidden = !names.length;
      if (names.join() === rows.map((row) => row.name).join()) return;
      const chosen = this.get();
      rows = names.map(makeRow);
      list.replaceChildren(...rows.map((row) => row.line));
      this.set(chosen);
      this.translate();
    },
    limit() {},
    isDefault: () => control.get() === "",
    isWrong: () => rows.some(({ isOn, strength }) => isOn.checked && !strength.validity.valid),
    translate() {
      caption.textContent = text("label.loras");
      for (const { name, strength } of rows) strength.ariaLabel = text("loraStrength", name);
    },
  };
  box.addEventListener("input", () => control.show());
  return control;
}

function makeRow(name) {
  const line = document.createElement("div");
  const label = document.createElement("label");
  const isOn = Object.assign(document.createElement("input"), { type: "checkbox" });
  label.append(isOn, name);
  const strength = Object.assign(document.createElement("input"), {
    type: "number",
    min: -10,
    max: 10,
    step: "any",
    required: true,
    value: 1,
  });
  line.append(label, strength);
  return { name, line, isOn, strength };
}
