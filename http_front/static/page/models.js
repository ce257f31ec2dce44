// The models that the server serves: what each takes, and its defaults.

let listed = [];

/** Remember the server's models, the default one first. */
export function keepModels(models) {
  listed = models.toSorted((one, other) => other.default - one.default);
}

export function models() {
  return listed;
}

/** Return a model; the default one if the name is unknown, null before any is known. */
export function modelNamed(name) {
  return listed.find((model) => model.id === name) ?? listed[0] ?? null;
}

/** Return the number of frames per second of a model's videos. */
export function framesPerSecond(name) {
  return modelNamed(name)?.frames_per_second ?? 16;
}

/** Return a job's fields with the ranges, choices and defaults of a model. */
export function fieldsOf(fields, model) {
  if (model === null) return fields;
  const ranges = {
    image_size: {},
    num_frames: { minimum: model.min_frames, maximum: model.max_frames },
    infer_steps: { minimum: model.min_steps, maximum: model.max_steps },
    guidance_scale: { minimum: model.min_guidance_scale, maximum: model.max_guidance_scale },
    sample_shift: { maximum: model.max_shift },
    sample_solver: { enum: model.solvers },
  };
  const own = Object.entries(ranges).map(([name, range]) => [
    name,
    { ...fields[name], ...range, default: model[name] },
  ]);
  const offered = model.step_caches.map((offer) => offer.name);
  const kinds = fields.step_cache.anyOf.map((kind) =>
    kind.enum ? { ...kind, enum: offered } : kind,
  );
  const stepCache = { ...fields.step_cache, anyOf: kinds };
  return { ...fields, ...Object.fromEntries(own), step_cache: stepCache };
}

/** Return whether a model makes videos of this size. */
export function takesSize(model, [width, height]) {
  if (model === null) return true;
  const isMultiple = (side) => side % model.side_multiple_px === 0;
  return isMultiple(width) && isMultiple(height) && width * height <= model.max_pixels;
}
