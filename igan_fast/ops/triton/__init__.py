"""The operators in Triton: for CUDA devices without the native extension, and, in its interpreter, for tests on a CPU.

Importing a module here imports Triton and registers its operators in the dispatcher's namespace ``igan_fast_triton``,
with the schemas of ``csrc/ops.cpp``. ``igan_fast.ops`` calls them; what they compute stands there.
"""
