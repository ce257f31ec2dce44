"""The parts of a rehearsal: each is a program that runs in the environment of a rig."""
