"""What fits: the largest batch, length or backbone of each method in so many bytes.

axis      batches, lengths or backbones as cases
answers   what was found, as values
asking    every method in a process of its own
probe     one method's answers
streams   streams of allocations along an axis, most of them computed from a few simulations
search    the border between what fits and what does not
tables    the answers as tables for people and rows for programs
"""
