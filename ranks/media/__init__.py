"""From frames and latents to MP4 files, stills and previews."""
