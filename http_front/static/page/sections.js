// The two closed sections of the form, what is in each, and whether it differs from the defaults.

import { text } from "./texts.js";

const CREATIVE = [
  ...["negative_prompt", "infer_steps", "guidance_scale", "guidance_scale_2", "guidance_end"],
  ...["sample_solver", "sample_shift", "loras"],
];
const IN_SIGHT = ["image_size", "num_frames", "seed"];
const SWITCHES = {
  start_step: "use_attentioncache",
  attentioncache_interval: "use_attentioncache",
  end_step: "use_attentioncache",
  step_cache_threshold: "step_cache",
};

/** Put each control where it belongs; unknown fields are for operators. */
export function place(controls) {
  const [near, creative, engine] = ["settings", "creative-settings", "engine-settings"].map((id) =>
    document.getElementById(id),
  );
  for (const name of [...IN_SIGHT, ...CREATIVE]) {
    const section = IN_SIGHT.includes(name) ? near : creative;
    if (controls.has(name)) section.append(controls.get(name).box);
  }
  for (const [name, { box }] of controls) if (!box.parentElement) engine.append(box);
}

/** Hide the fields that the model has no use for, and those whose switch is off. */
export function hideUnused(controls, model) {
  const distilled = ["guidance_scale", "guidance_end", "negative_prompt", "use_attentioncache"];
  const unused = new Set(model?.is_distilled ? distilled : []);
  if (!model?.has_second_guidance) unused.add("guidance_scale_2");
  if (!model?.step_caches.length) unused.add("step_cache");
  if (!model?.loras.length) unused.add("loras");
  for (const [name, control] of controls) {
    const own = SWITCHES[name];
    const isOff = own && (unused.has(own) || ["", "false"].includes(controls.get(own)?.get()));
    control.box.hidden = unused.has(name) || Boolean(isOff);
  }
}

/** Show on each section how many of its fields differ from the defaults. */
export function markChanges(controls) {
  for (const section of document.querySelectorAll("#form details")) {
    const changed = [...controls.values()].filter(
      (control) => section.contains(control.box) && !control.box.hidden && !control.isDefault(),
    );
    const badge = section.querySelector(".changed");
    badge.hidden = !changed.length;
    badge.textContent = text("changed", changed.length);
  }
}
