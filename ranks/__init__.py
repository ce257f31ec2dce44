"""The rank processes: load the model, run jobs on the accelerators, report to the broker."""
