"""One rank of several, simulated: torch's own DDP and FSDP2 run, the other ranks are pretended.

`world` is the process group that answers nobody, `ddp` and `fsdp2` say what each wrapper asks of a
device that there is not.
"""
