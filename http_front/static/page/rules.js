// What a control may hold, in words: shown beside it when it holds something else.

import { text } from "./texts.js";

const LEAST_PX = 64;
const CONTRADICTIONS = ["end_step", "step_cache"];
const LAYOUT = ["ulysses_size", "cfg_size", "vae_parallel", "dit_fsdp", "t5_fsdp"];

/** Return what a field may hold. `schema` is that of the chosen `model`, which may be null. */
export function ruleOf(name, schema, model) {
  const { minimum, exclusiveMinimum: above, maximum, type } = schema;
  if (name === "image_size") {
    return text("rule.size", model?.side_multiple_px ?? 16, LEAST_PX, model?.max_pixels ?? 921600);
  }
  if (CONTRADICTIONS.includes(name)) return text(`rule.${name}`);
  if (LAYOUT.includes(name)) return text("rule.layout");
  if (type === "string" && schema.maxLength) {
    return text("rule.text", schema.minLength ?? 0, schema.maxLength);
  }
  if (maximum === undefined) return text("rule.other");
  if (above !== undefined) return text("rule.above", above, maximum);
  return text(type === "integer" ? "rule.whole" : "rule.number", minimum, maximum);
}
