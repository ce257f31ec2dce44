"""The families of models: what each makes of a job, behind one interface."""
