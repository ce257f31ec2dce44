"""MP4 files and stills from frames; previews from latents."""
