"""Papers: what they printed, as data, beside the same rows simulated and measured here.

schema        what a paper's file may say
library       the files beside this one, and those of a user
reproduction  a paper's cells as cases; records as values beside the published ones; claims
tables        reproductions as tables and CSV
figures       memory against published scores, bars, sweeps
page          one HTML page

A file holds facts with their provenance and the recipes of the rows, and no result of ours.
"""
