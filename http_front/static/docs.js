// Shows the server's own document and loads nothing from other servers.
followTheme(matchMedia("(prefers-color-scheme: dark)"));
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#api",
  validatorUrl: null,
  deepLinking: true,
  tryItOutEnabled: true,
  requestInterceptor: prepare,
});

/** Show the page in the browser's theme, also when that changes. */
function followTheme(dark) {
  const show = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
  dark.addEventListener("change", show);
  show();
}

/** Send a request below the page's own address: a proxy may serve it under a prefix. */
function prepare(request) {
  if (!request.loadSpec) {
    const url = new URL(request.url, document.baseURI);
    url.pathname = new URL(".", document.baseURI).pathname + url.pathname.slice(1);
    request.url = url.href;
  }
  return leaveOutNulls(request);
}

/** Remove fields that are null, because a form would send them as the text "null". */
function leaveOutNulls(request) {
  if (request.body instanceof FormData) {
    for (const [name, value] of [...request.body]) {
      if (value === "null") request.body.delete(name);
    }
  }
  return request;
}
