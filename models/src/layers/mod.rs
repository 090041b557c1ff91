//! The layers: what every family is assembled from. None of them knows a family's name; what varies between
//! families is a field or an enum value that the family's file chose.
//!
//! `D` is `hidden_size`, `T` the step's tokens, `H` attention heads, `E` routed experts, `C` the latent width. Of a
//! tensor-parallel model `H`, `H_kv`, `I` and the rows of the token table are those of this rank.

mod attention;
mod block;
mod csa_hca;
mod embedding;
mod ffn;
mod gqa;
mod head;
mod hyper_connection;
mod indexer;
mod kv;
mod linear;
mod mla;
mod mlp;
mod moe;
mod mtp_layer;
mod norm;
mod rope;
mod row_linear;
mod sparse_mla;
mod stream_block;
mod stream_mtp_layer;

pub use attention::Attention;
pub use block::Block;
pub use csa_hca::{Compression, CsaHca, CsaHcaShape, EntryCompressor, EntryIndexer};
pub use embedding::Embedding;
pub use ffn::Ffn;
pub use gqa::{Gqa, GqaShape};
pub use head::Head;
pub use hyper_connection::HyperConnection;
pub use indexer::{IndexShape, Indexer};
pub use kv::{CachePart, KvCache, KvLayout, LayerCache, LayerKv, StatePart};
pub use linear::Linear;
pub use mla::{LatentQuery, Mla};
pub use mlp::Mlp;
pub use moe::{ExpertChoice, Moe};
pub use mtp_layer::MtpLayer;
pub use norm::{LayerNorm, RmsNorm};
pub use rope::{RopeFrequencies, mla_softmax_scale};
pub use row_linear::RowLinear;
pub use sparse_mla::SparseMla;
pub use stream_block::StreamBlock;
pub use stream_mtp_layer::StreamMtpLayer;
