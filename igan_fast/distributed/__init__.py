"""Training on many processes, which gives the run that one process would have given.

``torchrun`` starts the processes. Each computes a part of every batch, and holds all weights. What a run computes does
not depend on their number W, except for rounding: the batch is cut into S parts (``norm_groups``) that are normalised
apart, and S belongs to the run.

==================  ====================================================================================
``process``         which process this is, as torchrun says
``group``           joins the processes, and ends with a clear message if one is lost
``agreement``       decisions that all processes take alike
``plan``            who computes which rows of a batch
``gradients``       sums of gradients, while the backward pass goes on or in a fixed order
``statistics``      the batches' statistics, applied to the running statistics in the order of the parts
``step``            the training iteration on parts of a batch
``watch``           ends a process whose CUDA graphs wait for another process that is lost
==================  ====================================================================================
"""
