"""Stubs of NVIDIA's libraries."""
