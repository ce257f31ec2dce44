"""The denoising loop: samplers, attention cache, saved states."""
