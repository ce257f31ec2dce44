// Shows our own document and asks no other server for anything.
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#api",
  validatorUrl: null,
  deepLinking: true,
  tryItOutEnabled: true,
  requestInterceptor: leaveOutNulls,
});

/** Send no field that is null: in a form it would be the word. */
function leaveOutNulls(request) {
  if (request.body instanceof FormData) {
    for (const [name, value] of [...request.body]) {
      if (value === "null") request.body.delete(name);
    }
  }
  return request;
}
