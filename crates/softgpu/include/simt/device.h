// The one header a kernel includes. Under nvcc the primitives are inline PTX; under any other C++ compiler they are
// a software model of the same machine (`soft/`), which checks what hardware leaves undefined.
//
// A kernel file is ordinary CUDA with three conventions:
//   extern "C" __global__ void __launch_bounds__(128) my_kernel(const float* x, int n) { ... }
//   SIMT_DYNAMIC_SHARED(float, tile);     // in place of `extern __shared__ float tile[];`
//   SIMT_EXPORT(my_kernel)                // once per kernel, after its definition: lists it for the software driver
#pragma once
#include <stdint.h>

#if defined(__CUDACC__)
#include "simt/ptx/primitives.h"
#else
#include "simt/soft/language.h"

#include "simt/soft/access.h"
#include "simt/soft/async.h"
#include "simt/soft/atomics.h"
#include "simt/soft/barrier.h"
#include "simt/soft/bfloat16.h"
#include "simt/soft/half.h"
#include "simt/soft/intrinsics.h"
#include "simt/soft/ldmatrix.h"
#include "simt/soft/mma.h"
#include "simt/soft/module.h"
#include "simt/soft/warp.h"
#endif

#include "simt/packed.h"
