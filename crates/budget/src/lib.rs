//! What the compiler made of the CUDA kernels, held to `kernels/cuda/budget.toml`: registers, shared memory and the
//! occupancy that follows, the instructions a kernel is for, and what a launch must move and compute at least. All of it
//! is known without a GPU; none of it is a measurement.

pub mod check;
pub mod compiled;
pub mod cost;
pub mod gpu;
pub mod listing;
pub mod plan;
pub mod report;
