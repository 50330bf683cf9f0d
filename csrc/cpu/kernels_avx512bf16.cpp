#include "vector_avx512.h"
// The kernels are written for whichever Vec comes before them.
#include "kernels.h"

PYACCEL_DEFINE_CPU_KERNELS(avx512bf16)
