// How long a video will take, from what the stages of earlier ones took on this server.

/** Return the seconds that a video of these settings takes; null if nothing has been measured. */
export function estimateS(model, values) {
  const usualS = model?.typical_stage_s ?? {};
  if (!Object.keys(usualS).length) return null;
  const [own, usual] = [workOf(values, model), workOf(model, model)];
  const clip = own.clip / usual.clip;
  const passes = own.passes / usual.passes;
  return usualS.encode + usualS.denoise * clip * passes + (usualS.decode + usualS.save) * clip;
}

/** Return the pixels of the clip that the model makes, and the passes of its transformer. */
function workOf(values, model) {
  const value = (name) => Number(values[name] ?? model[name]);
  const [width, height] = (values.image_size ?? model.image_size).split(/[*x×]/).map(Number);
  const frames = Math.floor((value("num_frames") + 2) / 4) * 4 + 1;
  const steps = value("infer_steps");
  const guided = value("guidance_scale") > 1 ? Math.round(steps * (values.guidance_end ?? 1)) : 0;
  return { clip: width * height * frames, passes: steps + guided };
}
