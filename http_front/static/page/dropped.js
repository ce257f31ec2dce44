// What a drop or a paste brings: files, or a picture or link of another page.

/** Return the files, and otherwise the address, of a drop or a paste. */
export function contentOf(data) {
  const files = [...data.files];
  if (files.length) return { files, address: "" };
  const address = addressIn(data);
  if (address.startsWith("data:image/")) return { files: [fileOf(address)], address: "" };
  return { files: [], address: /^https?:\/\//i.test(address) ? address : "" };
}

function addressIn(data) {
  const html = new DOMParser().parseFromString(data.getData("text/html"), "text/html");
  const picture = html.querySelector("img[src]")?.getAttribute("src");
  const links = data.getData("text/uri-list").split(/\r?\n/);
  const link = links.find((line) => line && !line.startsWith("#"));
  return picture ?? link ?? data.getData("text/plain").trim();
}

/** Return the picture in a data URL; the page may not fetch those. */
function fileOf(address) {
  const [head, body] = address.split(/,(.*)/s);
  const type = /^data:([^;,]*)/.exec(head)[1];
  const letters = head.endsWith(";base64") ? atob(body) : decodeURIComponent(body);
  const bytes = Uint8Array.from(letters, (letter) => letter.charCodeAt(0));
  return new File([bytes], `picture.${type.split("/")[1].split("+")[0]}`, { type });
}
