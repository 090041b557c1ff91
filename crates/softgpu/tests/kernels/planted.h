// The test kernels, sound and with each of their known bugs, under one name each: softmax, softmax_shared_reuse, ...
// A file is compiled once more for each bug, under another name.
#pragma once
#include "simt/device.h"

#include "compact.cu"
#include "gather_pad.cu"
#include "gemm_bf16.cu"
#include "gemm_s8.cu"
#include "softmax.cu"

#define PLANT_WEAK_WAIT
#define gemm_bf16 gemm_bf16_weak_wait
#define gemm_bf16_detail gemm_bf16_weak_wait_detail
#include "gemm_bf16.cu"
#undef PLANT_WEAK_WAIT
#undef gemm_bf16
#undef gemm_bf16_detail

#define PLANT_NO_BARRIER_AFTER_WAIT
#define gemm_bf16 gemm_bf16_no_barrier_after_wait
#define gemm_bf16_detail gemm_bf16_no_barrier_after_wait_detail
#include "gemm_bf16.cu"
#undef PLANT_NO_BARRIER_AFTER_WAIT
#undef gemm_bf16
#undef gemm_bf16_detail

#define PLANT_EARLY_REFILL
#define gemm_bf16 gemm_bf16_early_refill
#define gemm_bf16_detail gemm_bf16_early_refill_detail
#include "gemm_bf16.cu"
#undef PLANT_EARLY_REFILL
#undef gemm_bf16
#undef gemm_bf16_detail

#define PLANT_WRONG_SWIZZLE
#define gemm_bf16 gemm_bf16_wrong_swizzle
#define gemm_bf16_detail gemm_bf16_wrong_swizzle_detail
#include "gemm_bf16.cu"
#undef PLANT_WRONG_SWIZZLE
#undef gemm_bf16
#undef gemm_bf16_detail

#define PLANT_TAIL_OUT_OF_BOUNDS
#define gemm_bf16 gemm_bf16_tail_out_of_bounds
#define gemm_bf16_detail gemm_bf16_tail_out_of_bounds_detail
#include "gemm_bf16.cu"
#undef PLANT_TAIL_OUT_OF_BOUNDS
#undef gemm_bf16
#undef gemm_bf16_detail

#define PLANT_MISALIGNED_COPY
#define gemm_bf16 gemm_bf16_misaligned_copy
#define gemm_bf16_detail gemm_bf16_misaligned_copy_detail
#include "gemm_bf16.cu"
#undef PLANT_MISALIGNED_COPY
#undef gemm_bf16
#undef gemm_bf16_detail

#define PLANT_STORE_PAST_END
#define gemm_bf16 gemm_bf16_store_past_end
#define gemm_bf16_detail gemm_bf16_store_past_end_detail
#include "gemm_bf16.cu"
#undef PLANT_STORE_PAST_END
#undef gemm_bf16
#undef gemm_bf16_detail

#define PLANT_NO_LAST_WAIT
#define gemm_s8 gemm_s8_no_last_wait
#define gemm_s8_detail gemm_s8_no_last_wait_detail
#include "gemm_s8.cu"
#undef PLANT_NO_LAST_WAIT
#undef gemm_s8
#undef gemm_s8_detail

#define PLANT_NO_BARRIER_BEFORE_REFILL
#define gemm_s8 gemm_s8_no_barrier_before_refill
#define gemm_s8_detail gemm_s8_no_barrier_before_refill_detail
#include "gemm_s8.cu"
#undef PLANT_NO_BARRIER_BEFORE_REFILL
#undef gemm_s8
#undef gemm_s8_detail

#define PLANT_WRONG_MASK
#define softmax softmax_wrong_mask
#define softmax_detail softmax_wrong_mask_detail
#include "softmax.cu"
#undef PLANT_WRONG_MASK
#undef softmax
#undef softmax_detail

#define PLANT_DIVERGENT_SHUFFLE
#define softmax softmax_divergent_shuffle
#define softmax_detail softmax_divergent_shuffle_detail
#include "softmax.cu"
#undef PLANT_DIVERGENT_SHUFFLE
#undef softmax
#undef softmax_detail

#define PLANT_DIVERGENT_BARRIER
#define softmax softmax_divergent_barrier
#define softmax_detail softmax_divergent_barrier_detail
#include "softmax.cu"
#undef PLANT_DIVERGENT_BARRIER
#undef softmax
#undef softmax_detail

#define PLANT_SHARED_REUSE
#define softmax softmax_shared_reuse
#define softmax_detail softmax_shared_reuse_detail
#include "softmax.cu"
#undef PLANT_SHARED_REUSE
#undef softmax
#undef softmax_detail

#define PLANT_UNSET_SHARED
#define softmax softmax_unset_shared
#define softmax_detail softmax_unset_shared_detail
#include "softmax.cu"
#undef PLANT_UNSET_SHARED
#undef softmax
#undef softmax_detail

#define PLANT_EXITED_LANE
#define compact compact_exited_lane
#define compact_detail compact_exited_lane_detail
#include "compact.cu"
#undef PLANT_EXITED_LANE
#undef compact
#undef compact_detail

#define PLANT_RACING_COUNT
#define compact compact_racing_count
#define compact_detail compact_racing_count_detail
#include "compact.cu"
#undef PLANT_RACING_COUNT
#undef compact
#undef compact_detail

#define PLANT_UNGUARDED_STORE
#define compact compact_unguarded_store
#define compact_detail compact_unguarded_store_detail
#include "compact.cu"
#undef PLANT_UNGUARDED_STORE
#undef compact
#undef compact_detail

#define PLANT_NO_WAIT
#define gather_pad gather_pad_no_wait
#define gather_pad_detail gather_pad_no_wait_detail
#include "gather_pad.cu"
#undef PLANT_NO_WAIT
#undef gather_pad
#undef gather_pad_detail

#define PLANT_SHARED_OVERFLOW
#define gather_pad gather_pad_shared_overflow
#define gather_pad_detail gather_pad_shared_overflow_detail
#include "gather_pad.cu"
#undef PLANT_SHARED_OVERFLOW
#undef gather_pad
#undef gather_pad_detail
