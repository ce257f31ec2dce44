"""The serving path, measured side by side with what it replaces and with what is usual."""
