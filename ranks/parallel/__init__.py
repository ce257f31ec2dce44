"""How the ranks share the work on one video: process groups, layouts, Ulysses, VAE split, FSDP."""
