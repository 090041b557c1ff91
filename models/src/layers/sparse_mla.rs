//! [`SparseMla`]: latent attention over the keys that a lightning indexer selects (DeepSeek sparse attention, V3.2).

use kernels::Tensor;

use crate::layers::{Indexer, LayerCache, Mla};
use crate::{Batch, Result, StepContext};

/// [`Mla`] with an [`Indexer`] beside it; all heads share its selection.
#[derive(Debug)]
pub struct SparseMla {
    /// The attention; its query is low-rank, and the indexer's comes from the same latent.
    pub mla: Mla,
    /// Chooses each token's keys.
    pub indexer: Indexer,
}

impl SparseMla {
    /// `x` `[T, D]` to `[T, D]`; writes latent rows and index keys into `cache`.
    pub fn forward(
        &self,
        ctx: &mut StepContext<'_>,
        batch: &Batch,
        x: &Tensor,
        cache: &mut LayerCache,
    ) -> Result<Tensor> {
        let [rows, index_keys] = cache.tensors_mut()?;
        let query_latent = self.mla.query.latent(x)?;
        let selected = self.indexer.forward(ctx, batch, [x, &query_latent], index_keys)?;
        self.mla.attend(ctx, batch, [x, &query_latent], rows, selected.as_ref())
    }
}
