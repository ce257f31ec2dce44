"""The denoising loop: samplers, guidance, attention cache, checkpoints."""
