// Shows the server's own document and loads nothing from other servers.
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#api",
  validatorUrl: null,
  deepLinking: true,
  tryItOutEnabled: true,
  requestInterceptor: leaveOutNulls,
});

/** Remove fields that are null, because a form would send them as the text "null". */
function leaveOutNulls(request) {
  if (request.body instanceof FormData) {
    for (const [name, value] of [...request.body]) {
      if (value === "null") request.body.delete(name);
    }
  }
  return request;
}
