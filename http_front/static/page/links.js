// A link to each video: the address of the page with the job after the #.

import { text } from "./texts.js";
import { toast } from "./toast.js";

/** Return the job that the page's address names; null if it names none. */
export function linkedJob() {
  return /^#video-([0-9a-f]{32})$/.exec(location.hash)?.[1] ?? null;
}

/** Copy the link to an element; where the browser does not allow that, the address bar has it. */
export async function shareLink(id) {
  const link = new URL(`#${id}`, location.href);
  try {
    await navigator.clipboard.writeText(link.href);
    toast(text("linkCopied"));
  } catch {
    location.hash = id;
    toast(text("linkInBar"));
  }
}
