"""Two sets of results, case by case: what grew, by how much, and where.

subjects    what is compared: a record, or one step of a user's own model
fields      the numbers that can be compared
thresholds  how far each may go
pairs       which result belongs beside which
verdicts    what is made of a pair
composition what the peak is made of, and what moved
evidence    the same, found out by simulating again
words       a verdict in sentences
tables markdown junit annotations   the same for a terminal, a page, CI
"""

from petl_bench.comparison.verdicts import Comparison, Outcome, Verdict, compare

__all__ = ["Comparison", "Outcome", "Verdict", "compare"]
