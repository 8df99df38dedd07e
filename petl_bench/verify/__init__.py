"""Simulated beside measured: how far the same case's bytes lie apart, phase by phase.

pairs       a measured record beside the simulation of its case
errors      the bytes that pairs lie apart, and what they say together
tables      that, for people
traces      allocations recorded one by one, beside the simulation's
"""
