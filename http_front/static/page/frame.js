// A frame of a video as a picture file.

// Within the last frame: some browsers show nothing at the end itself.
const BEFORE_END_S = 0.02;

/** Return the frame that a video shows; without one, the last frame of the video at an address. */
export async function frameOf(shown, address, name) {
  const video = shown ?? (await openAtEnd(await address()));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  const picture = await new Promise((done) => canvas.toBlob(done, "image/png"));
  const fileName = `${name}-${video.currentTime.toFixed(2)}s.png`;
  if (shown === null) release(video);
  return new File([picture], fileName, { type: "image/png" });
}

async function openAtEnd(address) {
  const video = Object.assign(document.createElement("video"), { muted: true, preload: "auto" });
  video.src = address;
  await happens(video, "loadedmetadata");
  video.currentTime = Math.max(0, video.duration - BEFORE_END_S);
  await happens(video, "seeked");
  return video;
}

function happens(video, event) {
  return new Promise((done, fail) => {
    video.addEventListener(event, done, { once: true });
    video.addEventListener("error", () => fail(video.error), { once: true });
  });
}

function release(video) {
  if (video.src.startsWith("blob:")) URL.revokeObjectURL(video.src);
  video.removeAttribute("src");
  video.load();
}
