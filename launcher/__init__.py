"""The launcher: checks the machine, then starts, supervises and stops the server's processes."""
