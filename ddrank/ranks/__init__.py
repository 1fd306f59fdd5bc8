"""One student on many devices: ranks, processes with a device each, that train it together (Lightning's DDP).

Rank 0, the leader, is the command: it composes the configuration, reads the data, asks the store and writes results.
The others follow: they wait for assignments, take part in their training and test, and end with the leader, however it
ends. Who is who is told by torchrun, Slurm or submitit (`place`); where none of them is at work, the leader starts its
followers itself. This module imports torch only where there are followers.
"""

from ddrank.ranks.group import expect, led, together

__all__ = ["expect", "led", "together"]
