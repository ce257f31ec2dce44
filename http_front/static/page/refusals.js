// What to say of a refusal, in the page's language: from its code, its field and its numbers.

import { text, textOr } from "./texts.js";

const OF_A_FIELD = ["invalid_field", "unsupported_layout"];

/** Return the sentence for a refusal; that of a field's value is said by the field's rule. */
export function sentenceOf({ code, status, retryAfterS }) {
  if (status === 0) return text("unreachable");
  const known = textOr(`error.${code}`, null) ?? text("error.other", status);
  return retryAfterS ? `${known} ${text("retryAfter", retryAfterS)}` : known;
}

/** Return whether a refusal says that a field has a value that it may not have. */
export function isOfValue(refusal) {
  return OF_A_FIELD.includes(refusal.code);
}
