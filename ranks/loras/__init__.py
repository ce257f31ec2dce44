"""LoRA files: reading them, finding them in a folder, and merging them into the weights."""
