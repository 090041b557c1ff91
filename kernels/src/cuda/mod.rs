//! The CUDA backend: one stream of work on one GPU ([`CudaDevice`]), its memory ([`DeviceBuffer`]), and one file per
//! stem that turns an op's checked arguments into launches.
//!
//! Everything asked of a device runs in order on its one stream, and no op waits or reads anything back: that is what
//! lets a whole step be captured as a CUDA graph. Grids follow from shapes alone; what only the device knows (lengths,
//! routing) is a mask inside a kernel.

mod arena;
mod args;
mod attention_plan;
pub(crate) mod block_copy;
pub(crate) mod compressor;
mod device;
pub(crate) mod elementwise;
pub(crate) mod embedding;
mod fault;
pub(crate) mod gate;
mod gemm;
mod graph;
pub(crate) mod grouped_linear;
pub(crate) mod hadamard;
pub(crate) mod hyper_connection;
mod image;
pub(crate) mod indexer;
pub(crate) mod join;
pub(crate) mod kv_write;
pub(crate) mod linear;
mod memory;
pub(crate) mod mla;
mod modules;
pub(crate) mod moe;
pub(crate) mod norm;
pub(crate) mod paged_attention;
mod quantize;
pub(crate) mod rope;
pub(crate) mod sample;
pub(crate) mod shared_kv;
mod staging;
pub(crate) mod state_ring;
pub(crate) mod swiglu;
mod tile;
mod transport;
pub(crate) mod window_attention;

pub use device::CudaDevice;

pub(crate) use args::Args;
pub(crate) use device::Launch;
pub(crate) use graph::Graph;
pub(crate) use memory::DeviceBuffer;
