// What is wrong with the form before it is sent: each input with a sentence, in their order.

import { lengthOf } from "./controls.js";
import { text } from "./texts.js";

/** Return the problems of a form: its pictures, its prompt and its settings. */
export function problemsOf({ picture, lastPicture, prompt, limits, settings }) {
  const { last_image: last } = settings.model ?? {};
  return [
    ...ofPicture(picture, "pictureMissing"),
    ...(lastPicture ? ofPicture(lastPicture, last === "required" ? "lastMissing" : "") : []),
    ...ofPrompt(prompt, limits),
    ...settings.problems(),
  ];
}

function ofPicture(picture, missing) {
  const sentence = picture.problem || (picture.isEmpty && missing ? text(missing) : "");
  return sentence ? [{ input: picture.input, sentence }] : [];
}

function ofPrompt(input, { minLength, maxLength }) {
  const length = lengthOf(input.value);
  if (input.value.trim().length < minLength) {
    return [{ input, sentence: text("promptShort", minLength) }];
  }
  if (length > maxLength) return [{ input, sentence: text("promptLong", length, maxLength) }];
  return [];
}
