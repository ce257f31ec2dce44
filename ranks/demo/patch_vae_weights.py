"""The demo VAE of Wan2.2 TI2V-5B: in patches of pixels, with 48 channels of latents."""

from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

NUM_PATCH_LATENTS = 48


def make_patch_vae() -> AutoencoderKLWan:
    vae: AutoencoderKLWan = AutoencoderKLWan(
        base_dim=16,
        decoder_base_dim=16,
        z_dim=NUM_PATCH_LATENTS,
        num_res_blocks=1,
        latents_mean=[0.1] * NUM_PATCH_LATENTS,
        latents_std=[0.8] * NUM_PATCH_LATENTS,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
    )
    return vae
