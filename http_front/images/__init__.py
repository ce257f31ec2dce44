"""Input images: fetched, guarded, decoded, stored."""
