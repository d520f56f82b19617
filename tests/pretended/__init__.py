"""A CUDA device that is not there: `python -m tests.pretended BYTES MODULE ARGUMENT...` runs a module on it.

torch is told of a device of that much memory. Its tensors hold others in ordinary memory, and each operation
is computed on those by the processor. So everything that says "cuda" in our code runs, and what only a GPU
shows is seen without one:

- an operation that mixes tensors of both kinds raises, as CUDA's do;
- memory is given out as torch's CUDA allocator does it, in blocks of segments, and it can run out.

What it is not: a GPU's kernels, their rounding and their speed. `cuda.cpp` is compiled against torch's
headers, in two seconds. All this changes torch for the whole process.
"""
