#include "vector_avx2.h"
// The kernel is written for whichever Vec comes before it.
#include "linear_combination_kernel.h"

PYACCEL_DEFINE_CPU_KERNEL(avx2)
