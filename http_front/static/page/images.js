// Decodes pictures in the browser, and makes of them what a video needs.

const SENT_AS_THEY_ARE = ["image/jpeg", "image/png", "image/webp"];
const SMALL_BYTES = 4 * 2 ** 20;
const LARGEST_SIDE_PX = 8192;
const LEAST_SIDE_PX = 64;

/**
 * Return a decoded picture, upright as its camera was held.
 *
 * Throws if the browser does not know the file as a picture.
 */
export async function decode(file) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  try {
    await image.decode();
  } catch (error) {
    URL.revokeObjectURL(image.src);
    throw error;
  }
  return image;
}

/** Return the part of a picture that fills a video; x and y are its place, from 0 to 1. */
export function regionOf({ naturalWidth, naturalHeight }, [width, height], { x, y, zoom }) {
  const scale = Math.min(naturalWidth / width, naturalHeight / height) / zoom;
  const [kept, keptHeight] = [width * scale, height * scale];
  return {
    x: (naturalWidth - kept) * x,
    y: (naturalHeight - keptHeight) * y,
    width: kept,
    height: keptHeight,
  };
}

/** Return a picture as the server should get it: the file itself, or its part for the video. */
export async function prepare({ file, image, crop }, size) {
  const isPlain = SENT_AS_THEY_ARE.includes(file.type) && file.size <= SMALL_BYTES;
  const longest = Math.max(image.naturalWidth, image.naturalHeight);
  // The server crops in the middle, too.
  const isMiddle = crop.x === 0.5 && crop.y === 0.5 && crop.zoom === 1;
  if (isPlain && longest <= LARGEST_SIDE_PX && isMiddle) return file;
  const region = regionOf(image, size, crop);
  const least = LEAST_SIDE_PX / Math.min(region.width, region.height);
  const scale = Math.max(least, Math.min(1, size[0] / region.width));
  const canvas = await draw(image, region, scale);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  return new File([blob], `${file.name.replace(/\.\w+$/, "")}.png`, { type: "image/png" });
}

/** Return the part of a picture for a video as a small data URL. */
export async function thumbnail({ image, crop }, size, longestPx) {
  const region = regionOf(image, size, crop);
  const canvas = await draw(image, region, longestPx / Math.max(region.width, region.height));
  return canvas.toDataURL("image/jpeg", 0.7);
}

async function draw(image, region, scale) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(region.width * scale));
  canvas.height = Math.max(1, Math.round(region.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // the server fills transparent pixels with white, too
  context.fillRect(0, 0, canvas.width, canvas.height);
  const box = [region.x, region.y, region.width, region.height];
  context.imageSmoothingQuality = "high";
  context.drawImage(image, ...box, 0, 0, canvas.width, canvas.height);
  return canvas;
}
