"""Input images: fetching, checking, decoding and storing them."""
