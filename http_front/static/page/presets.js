// The presets of a video: its size, length and steps in one choice.

import { fieldsOf } from "./models.js";
import { text } from "./texts.js";

/** Return the presets for a model; null takes the ranges and defaults in the fields. */
export function presetsFor(fields, model) {
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

/** Make the row of presets; `use` is called with the name of a chosen one. */
export function makePresets(names, use) {
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
    // A press on the one that is marked already is a choice, too, but no input.
    radio.addEventListener("click", () => use(name));
    label.append(radio, caption);
    row.append(label);
  }
}
