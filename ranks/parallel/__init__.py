"""How ranks share one video: process groups, layouts, Ulysses, VAE split, FSDP."""
