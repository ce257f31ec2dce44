"""The ranks: they know tensors, and speak to the broker and to each other only."""
