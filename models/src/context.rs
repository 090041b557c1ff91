//! [`StepContext`]: what the layers of one step share, handed to every forward as its first argument.

use std::sync::Arc;

use kernels::ops::Routing;
use kernels::{Device, RopeTable, Tensor};

use crate::layers::RopeFrequencies;
use crate::{Batch, ModelError, Result};

/// A listener on a forward: `verify` compares what it hears with a reference, token for token.
///
/// Hooks see every token of the batch. They may copy, never change.
pub trait Probe {
    /// The residual stream `[T, D]` at `name`: `embed`, `layer<i>` (output of decoder layer `i`), `final_norm`. A layer's
    /// output of several streams is `[T, S * D]`.
    fn hidden(&mut self, name: &str, hidden: &Tensor) {
        let _ = (name, hidden);
    }

    /// Router `logits` `[T, E]` of decoder layer `layer`, before the scoring function, and the choice made of them.
    fn router(&mut self, layer: usize, logits: &Tensor, routing: &Routing) {
        let _ = (layer, logits, routing);
    }

    /// What the indexer of layer `layer` selected for the tokens at `positions` `[T]`: positions `[T, K]` as
    /// [`kernels::ops::index_topk`] lists them, or `None` if every token attends to all keys up to its own.
    fn selection(&mut self, layer: usize, positions: &Tensor, selected: Option<&Tensor>) {
        let _ = (layer, positions, selected);
    }
}

/// State of one step: the rope tables, computed once for every distinct set of frequencies, and the probe.
///
/// A context may serve many steps; each forward begins by forgetting the last step's tables.
pub struct StepContext<'a> {
    device: Device,
    rope_tables: Vec<(Arc<RopeFrequencies>, Arc<RopeTable>)>,
    probe: Option<&'a mut (dyn Probe + 'a)>,
}

impl<'a> StepContext<'a> {
    /// A context for steps on `device`, with nobody listening.
    pub fn new(device: &Device) -> Self {
        Self { device: device.clone(), rope_tables: Vec::new(), probe: None }
    }

    /// A context whose forwards report to `probe`.
    pub fn with_probe(device: &Device, probe: &'a mut (dyn Probe + 'a)) -> Self {
        Self { device: device.clone(), rope_tables: Vec::new(), probe: Some(probe) }
    }

    /// Whether somebody listens to the forwards.
    pub fn is_probed(&self) -> bool {
        self.probe.is_some()
    }

    /// The device of the steps.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Starts the step of `batch`: tables of earlier positions are dropped. A model's forward does this itself; call it
    /// before running a layer by hand.
    ///
    /// # Errors
    /// [`ModelError::Device`] if the batch lies elsewhere.
    pub fn begin(&mut self, batch: &Batch) -> Result<()> {
        let found = batch.device();
        if found != self.device {
            return Err(ModelError::Device { what: "batch".into(), expected: self.device.clone(), found });
        }
        self.rope_tables.clear();
        Ok(())
    }

    /// Cosines and sines of `frequencies` at the positions of `batch`; layers with equal frequencies share one table.
    pub(crate) fn rope_table(
        &mut self,
        frequencies: &Arc<RopeFrequencies>,
        batch: &Batch,
    ) -> Result<Arc<RopeTable>> {
        let same = |known: &Arc<RopeFrequencies>| Arc::ptr_eq(known, frequencies) || known == frequencies;
        if let Some((_, table)) = self.rope_tables.iter().find(|(known, _)| same(known)) {
            return Ok(table.clone());
        }
        let RopeFrequencies { inv_freq, attention_factor, stride } = &**frequencies;
        let table = RopeTable::strided(&batch.positions, inv_freq, *attention_factor, *stride)?;
        let table = Arc::new(table);
        self.rope_tables.push((frequencies.clone(), table.clone()));
        Ok(table)
    }

    /// Reports the residual stream to the probe; the name is made only if someone listens.
    pub(crate) fn probe_hidden(&mut self, name: impl FnOnce() -> String, hidden: &Tensor) {
        if let Some(probe) = &mut self.probe {
            probe.hidden(&name(), hidden);
        }
    }

    /// Reports a routing decision to the probe.
    pub(crate) fn probe_router(&mut self, layer: usize, logits: &Tensor, routing: &Routing) {
        if let Some(probe) = &mut self.probe {
            probe.router(layer, logits, routing);
        }
    }

    /// Reports an indexer's selection to the probe.
    pub(crate) fn probe_selection(&mut self, layer: usize, batch: &Batch, selected: Option<&Tensor>) {
        if let Some(probe) = &mut self.probe {
            probe.selection(layer, &batch.positions, selected);
        }
    }
}

#[cfg(test)]
mod tests {
    use checkpoint::RopeScaling;
    use kernels::ops::PagedBatch;

    use super::*;

    #[test]
    fn one_table_per_distinct_set_of_frequencies() {
        let frequencies = |theta| Arc::new(RopeFrequencies::new(theta, 8, &RopeScaling::None));
        let batch = |position| {
            let paged = PagedBatch::new(&Device::Cpu, 4, &[(1, 1, &[0])]).unwrap();
            Batch::new(&[0], &[position], paged).unwrap()
        };
        let (first, equal, other) = (frequencies(1e4), frequencies(1e4), frequencies(1e5));
        let mut ctx = StepContext::new(&Device::Cpu);
        ctx.begin(&batch(3)).unwrap();
        let tables = [&first, &equal, &other].map(|f| ctx.rope_table(f, &batch(3)).unwrap());
        assert!(Arc::ptr_eq(&tables[0], &tables[1]), "equal frequencies share a table");
        assert_ne!(tables[0].cos.to_vec_f32(), tables[2].cos.to_vec_f32());
        ctx.begin(&batch(4)).unwrap();
        let next = ctx.rope_table(&first, &batch(4)).unwrap();
        assert_ne!(tables[0].cos.to_vec_f32(), next.cos.to_vec_f32(), "a step starts without tables");
    }
}
