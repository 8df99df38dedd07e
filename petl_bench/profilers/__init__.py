"""Profilers: how many bytes and seconds a training step takes, measured or simulated."""
