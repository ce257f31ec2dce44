"""The serving path, compared with the architecture that it replaces and with the usual one."""
