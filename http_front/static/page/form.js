// The form: the pictures, the prompt and the settings, what is wrong with them, and sending them.

import * as api from "./api.js";
import { problemsOf } from "./checks.js";
import { countLetters } from "./controls.js";
import { estimateS } from "./estimate.js";
import { models } from "./models.js";
import { settingsIn } from "./mp4.js";
import { Picture } from "./picture.js";
import * as problems from "./problems.js";
import { isOfValue } from "./refusals.js";
import { Sending } from "./sending.js";
import { Settings } from "./settings.js";
import * as store from "./store.js";
import { Takes } from "./takes.js";
import { duration, text } from "./texts.js";

const part = (id) => document.getElementById(id);

export class Form {
  #form = part("form");
  #prompt = part("prompt");
  #fields;
  #picture;
  #lastPicture;
  #takes;
  #draft = store.draft.get();
  #wantedJob = null;
  #sending = new Sending();

  /**
   * `fields` are the server's fields of a job. `fail` is called with a Refusal that concerns no
   * field, `announce` with a message, `submitted` with the number of new videos.
   */
  constructor(fields, { fail, announce, submitted }) {
    Object.assign(this, { fail, announce, submitted });
    this.#fields = fields;
    this.#picture = new Picture("picture", {
      taken: (size) => this.#turn(size),
      video: (file) => this.#useVideo(file),
    });
    this.#lastPicture = new Picture("last-picture", {
      taken: () => problems.clear(part("last")),
    });
    this.#picture.acceptElsewhere();
    this.#takes = new Takes(() => this.showEstimate());
    this.settings = new Settings(fields, { changed: () => this.#changed() });
    this.#prompt.value = this.#draft.prompt ?? "";
    this.restoreSettings();
    this.#listen();
  }

  /** Set the settings that were chosen before: on an earlier visit, or while no model was known. */
  restoreSettings() {
    this.settings.restore(this.#chosenBefore);
  }

  /** Fill in a job's prompt, settings and pictures; a Refusal leaves the form as it is. */
  async useJob(job, { newSeed }) {
    this.#wantedJob = job;
    const pictures = await api.picturesOf(job);
    if (this.#wantedJob !== job) return; // another one has been chosen since
    const { prompt, seed, ...others } = job.settings;
    this.#fill({ prompt, ...others, ...(newSeed ? {} : { seed }) });
    this.announce(text(newSeed ? "reusedNew" : "reused"));
    if (!pictures) this.#picture.refuse("pictureGone");
    else await this.usePicture(renamed(pictures.image, text("pictureOfJob")));
    if (pictures?.last_image) await this.#lastPicture.take([renamed(pictures.last_image, text("lastOfJob"))]);
    else if (job.has_last_image) this.#lastPicture.refuse("lastGone");
    else this.#lastPicture.clear();
  }

  /** Take a picture without another size of the video. */
  async usePicture(file) {
    this.keepsSize = true;
    await this.#picture.take([file]);
    this.keepsSize = false;
  }

  async useExample(file, prompt) {
    await this.#picture.take([file]);
    this.#prompt.value = prompt;
    this.#changed();
    this.#keepDraft();
    this.#prompt.focus();
  }

  /** Show how long the videos will take, if anything is known of that. */
  showEstimate() {
    if (!this.settings) return;
    const { model } = this.settings;
    const oneS = this.settings.size() && estimateS(model, this.settings.values());
    const number = this.#picture.count * this.#takes.number;
    part("estimate").hidden = !oneS;
    if (oneS) part("estimate").textContent = text("estimate", number, duration(oneS * number));
  }

  /** Show a problem that concerns no single field. */
  show(sentence) {
    part("problem").textContent = sentence;
    part("problem").hidden = false;
  }

  translate() {
    this.#clearProblems();
    this.#picture.translate();
    this.#lastPicture.translate();
    this.settings.translate();
  }

  #listen() {
    this.#form.addEventListener("submit", (event) => this.#submit(event));
    this.#form.addEventListener("input", (event) => {
      problems.clear(event.target);
      part("problem").hidden = true;
    });
    for (const kind of ["input", "click"]) {
      this.#form.addEventListener(kind, () => this.#keepDraft());
    }
    this.#prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#form.requestSubmit();
    });
    part("reset").addEventListener("click", () => {
      this.settings.reset();
      this.#takes.reset();
      this.#clearProblems();
      part("prompt").focus();
      this.announce(text("wasReset"));
    });
  }

  #fill(values) {
    this.#clearProblems();
    this.#prompt.value = values.prompt ?? "";
    this.#draft = values;
    this.settings.fill(values);
    this.#keepDraft();
    this.#form.scrollIntoView({ block: "start" });
    this.#form.scrollTop = 0;
    this.#prompt.focus({ preventScroll: true });
  }

  async #useVideo(file) {
    const values = await settingsIn(file);
    if (!values?.prompt) {
      this.#picture.refuse("videoForeign", file.name);
      return;
    }
    this.#fill(values);
    this.announce(text("restored", file.name));
    const isServed = !values.model || models().some((model) => model.id === values.model);
    if (!isServed) this.show(text("modelGone", values.model, this.settings.model?.id));
  }

  /** Adapt the video's size to a new picture. */
  #turn(size) {
    for (const id of ["picture", "picture-url"]) problems.clear(part(id));
    part("examples").hidden = !this.#picture.isEmpty;
    this.settings.turn(size, { keepsSize: this.keepsSize });
    this.#keepDraft();
  }

  #changed() {
    if (!this.settings) return;
    const size = this.settings.size();
    for (const each of [this.#picture, this.#lastPicture]) if (size) each.fit(size);
    part("last").hidden = !this.#takesLast;
    part("examples").hidden = !this.#picture.isEmpty;
    part("reset").hidden = this.settings.areDefault;
    countLetters(part("prompt-count"), this.#prompt, this.#fields.prompt);
    this.#showModel();
    this.showEstimate();
  }

  /** Name the model in the bar; say if the video is longer than those that it was trained with. */
  #showModel() {
    const { model } = this.settings;
    part("served").hidden = model === null;
    if (model) part("served").textContent = text(model.is_demo ? "demo" : "served", model.id);
    const isLonger = model !== null && this.settings.values().num_frames > model.trained_frames;
    part("length-note").hidden = !isLonger;
    if (isLonger) {
      part("length-note").textContent = text("lengthNote", model.id, model.trained_frames);
    }
  }

  get #takesLast() {
    return ["optional", "required"].includes(this.settings.model?.last_image);
  }

  get #chosenBefore() {
    const { prompt, ...settings } = this.#draft;
    return settings;
  }

  #keepDraft() {
    const { model } = this.#draft; // not among the values before the models are known
    const chosen = this.settings.areChosen ? { model, ...this.settings.values() } : this.#chosenBefore;
    this.#draft = { prompt: this.#prompt.value, ...chosen };
    store.draft.set(this.#draft);
  }

  async #submit(event) {
    event.preventDefault();
    if (part("submit").ariaDisabled === "true") return;
    this.#clearProblems();
    this.#busy(true);
    let number = 0;
    try {
      await Promise.all([this.#picture.settled, this.#lastPicture.settled]);
      if (this.#findProblems()) return;
      await this.#sending.send(this.#filled(), () => (number += 1));
    } catch (refusal) {
      this.#refuse(refusal);
      const all = this.#picture.count * this.#takes.number;
      const taken = all - this.#sending.numLeft;
      if (number) this.show(`${text("partly", taken, all)} ${refusal.message}`);
    } finally {
      this.#busy(false);
      if (number) await this.submitted(number);
    }
  }

  #filled() {
    return {
      picture: this.#picture,
      lastPicture: this.#takesLast ? this.#lastPicture : null,
      prompt: this.#prompt.value,
      settings: this.settings,
      number: this.#takes.number,
    };
  }

  /** Show each problem of the form beside its field; return whether there is one. */
  #findProblems() {
    const found = problemsOf({
      picture: this.#picture,
      lastPicture: this.#takesLast ? this.#lastPicture : null,
      prompt: this.#prompt,
      limits: this.#fields.prompt,
      settings: this.settings,
    });
    this.#mark(found);
    return found.length > 0;
  }

  #mark(found) {
    for (const { input, sentence } of found) problems.mark(input, sentence);
    if (!found.length) return;
    const section = found[0].input.closest("details");
    if (section) section.open = true;
    found[0].input.focus();
  }

  /** Show a refusal beside the fields that it names, or under the form. */
  #refuse(refusal) {
    const found = [];
    for (const name of refusal.fields ?? []) {
      const input = this.#inputOf(name);
      const sentence = (isOfValue(refusal) && this.#rule(name)) || refusal.message;
      if (input) found.push({ input, sentence });
    }
    if (found.length) this.#mark(found);
    else this.fail(refusal);
  }

  #inputOf(name) {
    if (name === "prompt") return this.#prompt;
    if (["image", "image_url"].includes(name)) return this.#picture.input;
    if (["last_image", "last_image_url"].includes(name)) return this.#lastPicture.input;
    return this.settings.reveal(name);
  }

  #rule(name) {
    const { minLength, maxLength } = this.#fields.prompt;
    return name === "prompt" ? text("rule.text", minLength, maxLength) : this.settings.rule(name);
  }

  #clearProblems() {
    problems.clear(this.#form);
    part("problem").hidden = true;
  }

  #busy(isBusy) {
    part("submit").ariaDisabled = isBusy; // `disabled` would remove the focus
    part("submit").textContent = text(isBusy ? "submitting" : "submit");
  }
}

function renamed(file, name) {
  return new File([file], name, { type: file.type });
}
