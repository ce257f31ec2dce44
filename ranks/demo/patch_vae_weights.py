"""The demo VAE of Wan2.2 TI2V-5B: in patches of pixels, with 48 channels of latents."""

from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from ranks.model_files.original_vae import LATENTS_22

NUM_PATCH_LATENTS = 48


def make_patch_vae() -> AutoencoderKLWan:
    vae: AutoencoderKLWan = AutoencoderKLWan(
        base_dim=16,
        decoder_base_dim=16,
        z_dim=NUM_PATCH_LATENTS,
        num_res_blocks=1,
        **LATENTS_22,  # which no original file states
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
    )
    return vae
