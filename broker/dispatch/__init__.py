"""The pure machine that decides which group runs which job."""
