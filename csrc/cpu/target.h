// The target of the compiler.

#pragma once

// Whether kernels are compiled for AVX2 and AVX-512 in addition to the baseline.
#if defined(__x86_64__) && defined(__GNUC__)
#define IGAN_FAST_X86 1
#else
#define IGAN_FAST_X86 0
#endif
