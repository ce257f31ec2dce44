// Shows the server's own document and loads nothing from other servers.
followTheme(matchMedia("(prefers-color-scheme: dark)"));
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#api",
  validatorUrl: null,
  deepLinking: true,
  tryItOutEnabled: true,
  requestInterceptor: leaveOutNulls,
});

/** Show the page in the browser's theme, also when that changes. */
function followTheme(dark) {
  const show = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
  dark.addEventListener("change", show);
  show();
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
