"""The models that the server serves: what each takes, and the routes that list them."""
