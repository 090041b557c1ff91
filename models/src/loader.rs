//! [`Loader`]: layers out of a checkpoint, with a record of everything that was read.
//!
//! The record is what makes "no silent ignoring" possible: whatever the checkpoint holds beyond it is reported.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use checkpoint::{Checkpoint, CommonConfig, Dtype, LoadProgress, Slice};
use comm::Communicator;
use kernels::ops::Experts;
use kernels::{Device, Tensor, Weight, WeightFormat};

use crate::expert_format::ExpertStack;
use crate::layers::{Embedding, Head, Linear, Mlp, RmsNorm, RowLinear};
use crate::{IndexFormat, Int8Report, ModelError, ModelOptions, Result, Shard};

const VOCAB: &str = "vocab_size";

/// Reads one rank's part of every tensor onto one device and remembers names and sizes.
pub(crate) struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    device: &'a Device,
    comm: Arc<dyn Communicator>,
    options: ModelOptions,
    ffn_names: FfnNames,
    int8_reports: Vec<Int8Report>,
    progress: &'a mut dyn FnMut(LoadProgress),
    read: HashSet<String>,
    done: LoadProgress,
    parameters: u64,
    bytes: usize,
}

/// How a family names the matrices of its feed-forward layers, and what it clamps in them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FfnNames {
    pub(crate) gate: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
    pub(crate) swiglu_limit: Option<f32>,
}

/// The heads or channels of a weight that this rank keeps.
pub(crate) struct Part {
    /// Which of them.
    pub(crate) range: Range<usize>,
    /// Rows (or columns) of each.
    pub(crate) unit: usize,
    /// How many there are on all ranks.
    pub(crate) of: usize,
}

impl Part {
    /// Rows (or columns) of the whole weight.
    fn size(&self) -> usize {
        self.of * self.unit
    }

    /// Those of this rank.
    fn indices(&self) -> Range<usize> {
        self.range.start * self.unit..self.range.end * self.unit
    }
}

impl<'a> Loader<'a> {
    pub(crate) fn new(
        checkpoint: &'a Checkpoint,
        device: &'a Device,
        comm: Arc<dyn Communicator>,
        options: ModelOptions,
        progress: &'a mut dyn FnMut(LoadProgress),
    ) -> Self {
        let names = || checkpoint.names().filter(|name| options.wants(checkpoint.config(), name));
        let sizes = names().filter_map(|name| checkpoint.info(name));
        let done = LoadProgress {
            tensors_total: names().count(),
            bytes_total: sizes.map(|info| info.size_bytes as u64).sum(),
            ..LoadProgress::default()
        };
        Self {
            checkpoint,
            device,
            comm,
            options,
            ffn_names: FfnNames { gate: "gate_proj", up: "up_proj", down: "down_proj", swiglu_limit: None },
            int8_reports: Vec::new(),
            progress,
            read: HashSet::new(),
            done,
            parameters: 0,
            bytes: 0,
        }
    }

    /// From now on feed-forward layers are read under these names.
    pub(crate) fn name_ffn(&mut self, names: FfnNames) {
        self.ffn_names = names;
    }

    /// Which part of the model is read.
    pub(crate) fn shard(&self) -> Shard {
        Shard::new(self.comm.rank(), self.comm.size())
    }

    /// What an indexer compares.
    pub(crate) fn index_format(&self) -> IndexFormat {
        self.options.index
    }

    /// The ranks, for layers that meet them.
    pub(crate) fn comm(&self) -> Arc<dyn Communicator> {
        self.comm.clone()
    }

    /// Whether the checkpoint has `name`, and it is wanted.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.checkpoint.contains(name) && self.options.wants(self.checkpoint.config(), name)
    }

    /// `name` as `F32` of `shape`.
    pub(crate) fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let tensor = self.checkpoint.tensor_f32(name, shape)?.to_device(self.device)?;
        self.record(with_scales(name), tensor.len(), tensor.size_bytes());
        Ok(tensor)
    }

    /// `name` as `F32` of `shape`, on the host: numbers that a layer is computed from, no parameters.
    pub(crate) fn constants(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let values = self.checkpoint.tensor_f32(name, shape)?.to_vec_f32();
        self.record(vec![name.to_owned()], 0, 0);
        Ok(values)
    }

    /// `{prefix}.weight` `[n, k]` in its stored form, on every rank.
    pub(crate) fn weight(&mut self, prefix: &str, shape: [usize; 2]) -> Result<Weight> {
        self.slice(prefix, shape, &Slice::All)
    }

    /// `{prefix}.weight` `[n, k]`, and `{prefix}.bias` `[n]` if `bias`, on every rank.
    pub(crate) fn linear(&mut self, prefix: &str, [n, k]: [usize; 2], bias: bool) -> Result<Linear> {
        let weight = self.weight(prefix, [n, k])?;
        let bias = if bias { Some(self.tensor(&format!("{prefix}.bias"), &[n])?) } else { None };
        Ok(Linear { weight, bias })
    }

    /// This rank's rows of `{prefix}.weight` `[rows, k]`.
    pub(crate) fn rows(&mut self, prefix: &str, rows: &Part, k: usize) -> Result<Weight> {
        self.slice(prefix, [rows.size(), k], &Slice::Rows(rows.indices()))
    }

    /// This rank's rows of `{prefix}.weight` `[rows, k]`, and of `{prefix}.bias` `[rows]` if `bias`.
    pub(crate) fn column_linear(
        &mut self,
        prefix: &str,
        rows: &Part,
        k: usize,
        bias: bool,
    ) -> Result<Linear> {
        let weight = self.rows(prefix, rows, k)?;
        let bias = if bias { Some(self.vector(&format!("{prefix}.bias"), rows)?) } else { None };
        Ok(Linear { weight, bias })
    }

    /// This rank's columns of `{prefix}.weight` `[n, cols]`, and on the first rank `{prefix}.bias` `[n]` if `bias`.
    pub(crate) fn row_linear(
        &mut self,
        prefix: &str,
        n: usize,
        cols: &Part,
        bias: bool,
    ) -> Result<RowLinear> {
        let weight = self.slice(prefix, [n, cols.size()], &Slice::Cols(cols.indices()))?;
        let bias_name = format!("{prefix}.bias");
        let bias = match bias {
            true if self.comm.rank() == 0 => Some(self.tensor(&bias_name, &[n])?),
            true => {
                self.record(vec![bias_name], n, 0);
                None
            }
            false => None,
        };
        Ok(RowLinear { weight, bias, comm: self.comm() })
    }

    /// The router matrix `{prefix}.weight` `[E, D]`, widened to `F32`.
    pub(crate) fn router(&mut self, prefix: &str, shape: [usize; 2]) -> Result<Weight> {
        Ok(Weight::new(self.tensor(&format!("{prefix}.weight"), &shape)?, None)?)
    }

    /// `{prefix}.weight` `[dim]` as a norm.
    pub(crate) fn norm(&mut self, prefix: &str, dim: usize, eps: f32) -> Result<RmsNorm> {
        Ok(RmsNorm { weight: self.tensor(&format!("{prefix}.weight"), &[dim])?, eps })
    }

    /// A norm of the residual stream inside the layer at `prefix`.
    pub(crate) fn block_norm(&mut self, prefix: &str, name: &str, common: &CommonConfig) -> Result<RmsNorm> {
        self.norm(&format!("{prefix}.{name}"), common.hidden_size, common.rms_norm_eps)
    }

    /// The token table `{prefix}.weight` `[vocab, dim]`.
    pub(crate) fn embedding(&mut self, prefix: &str, vocab: usize, dim: usize) -> Result<Embedding> {
        let rows = self.channels(VOCAB, vocab)?;
        let table = self.rows(prefix, &rows, dim)?;
        Ok(Embedding { table, first: rows.range.start, vocab_size: vocab, comm: self.comm() })
    }

    /// The head `{prefix}.weight` `[vocab, dim]`.
    pub(crate) fn head(&mut self, prefix: &str, vocab: usize, dim: usize) -> Result<Head> {
        let rows = self.channels(VOCAB, vocab)?;
        let weight = self.rows(prefix, &rows, dim)?;
        self.head_of(weight, vocab)
    }

    /// The head that is the token table once more.
    pub(crate) fn tied_head(&self, embedding: &Embedding) -> Result<Head> {
        self.head_of(embedding.table.clone(), embedding.vocab_size)
    }

    fn head_of(&self, weight: Weight, vocab: usize) -> Result<Head> {
        let widths = self.shard().widths(VOCAB, vocab, self.block())?;
        Ok(Head { linear: Linear { weight, bias: None }, widths, comm: self.comm() })
    }

    /// The gated MLP at `prefix`, of width `inter`.
    pub(crate) fn mlp(&mut self, prefix: &str, dim: usize, inter: usize) -> Result<Mlp> {
        let part = self.channels("intermediate_size", inter)?;
        let FfnNames { gate, up, down, swiglu_limit } = self.ffn_names;
        Ok(Mlp {
            gate: self.rows(&format!("{prefix}.{gate}"), &part, dim)?,
            up: self.rows(&format!("{prefix}.{up}"), &part, dim)?,
            down: self.row_linear(&format!("{prefix}.{down}"), dim, &part, false)?,
            swiglu_limit,
        })
    }

    /// The routed experts `{prefix}.experts.<e>`, stacked; all three projections of a layer in one form.
    pub(crate) fn experts(
        &mut self,
        prefix: &str,
        count: usize,
        dim: usize,
        inter: usize,
    ) -> Result<Experts> {
        let block = self.expert_block(prefix, inter);
        let range = self.shard().channels("moe_intermediate_size", inter, block)?;
        let stack = |name: &str, shape: [usize; 2], slice: Slice| ExpertStack {
            name: format!("{prefix}.experts.*.{name}"),
            prefixes: (0..count).map(|e| format!("{prefix}.experts.{e}.{name}")).collect(),
            shape,
            slice,
        };
        let FfnNames { gate, up, down, swiglu_limit } = self.ffn_names;
        let stacks = [
            stack(gate, [inter, dim], Slice::Rows(range.clone())),
            stack(up, [inter, dim], Slice::Rows(range.clone())),
            stack(down, [dim, inter], Slice::Cols(range)),
        ];
        let [gate, up, down] = match self.int8_experts(&stacks)? {
            Some(weights) => weights,
            None => self.stored_experts(&stacks)?,
        };
        Ok(Experts { gate, up, down, swiglu_limit })
    }

    fn stored_experts(&mut self, stacks: &[ExpertStack; 3]) -> Result<[Weight; 3]> {
        let mut read = |stack: &ExpertStack| {
            let weight = self.checkpoint.stacked_weight_slice(&stack.prefixes, stack.shape, &stack.slice)?;
            self.upload(&stack.prefixes, stack.shape, weight)
        };
        Ok([read(&stacks[0])?, read(&stacks[1])?, read(&stacks[2])?])
    }

    /// The experts in INT8, or `None` if they stay as stored.
    fn int8_experts(&mut self, stacks: &[ExpertStack; 3]) -> Result<Option<[Weight; 3]>> {
        let read = |stack: &ExpertStack| {
            let Some((weight, report)) = self.options.experts.read_int8(self.checkpoint, stack)? else {
                return Ok(None);
            };
            Ok::<_, ModelError>(Some((weight.to_device(self.device)?, report)))
        };
        let Some((gate, gate_report)) = read(&stacks[0])? else { return Ok(None) };
        let Some((up, up_report)) = read(&stacks[1])? else { return Ok(None) };
        let Some((down, down_report)) = read(&stacks[2])? else { return Ok(None) };
        self.int8_reports.extend([gate_report, up_report, down_report]);
        let weights = [gate, up, down];
        for (stack, weight) in stacks.iter().zip(&weights) {
            self.book(&stack.prefixes, stack.shape, weight);
        }
        Ok(Some(weights))
    }

    /// This rank's columns of its groups of rows of `{prefix}.weight`, a matrix for each group.
    pub(crate) fn row_groups(&mut self, prefix: &str, groups: &Part, cols: &Part) -> Result<Vec<Weight>> {
        let shape = [groups.size(), cols.size()];
        let read = |group: usize| {
            let rows = group * groups.unit..(group + 1) * groups.unit;
            let slice = Slice::Rectangle(rows, cols.indices());
            Ok(self.checkpoint.weight_slice(prefix, shape, &slice)?.to_device(self.device)?)
        };
        let weights = groups.range.clone().map(read).collect::<Result<Vec<_>>>()?;
        let bytes = weights.iter().map(Weight::size_bytes).sum();
        self.record(with_scales(&format!("{prefix}.weight")), shape[0] * shape[1], bytes);
        Ok(weights)
    }

    /// The table of ids `name` `[v, k]`, all of them below `below`. It counts as no parameter.
    pub(crate) fn id_table(&mut self, name: &str, shape: [usize; 2], below: usize) -> Result<Tensor> {
        let table = self.checkpoint.id_table(name, shape, below)?.to_device(self.device)?;
        self.record(vec![name.to_owned()], 0, table.size_bytes());
        Ok(table)
    }

    /// The first tensor whose name contains `part`.
    pub(crate) fn find(&self, part: &str) -> Option<&'a str> {
        self.checkpoint.names().find(|name| name.contains(part))
    }

    /// A weight that a family knows and has no use for: a copy of one that it shares.
    pub(crate) fn skip_weight(&mut self, prefix: &str) {
        self.read.extend(with_scales(&format!("{prefix}.weight")));
    }

    /// Parameters read so far, those of other ranks included, scales not counted.
    pub(crate) fn parameters(&self) -> u64 {
        self.parameters
    }

    /// What became of the experts that were re-quantised.
    pub(crate) fn into_int8_reports(self) -> Vec<Int8Report> {
        self.int8_reports
    }

    /// Bytes of this rank's weights so far, scales included.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Tensors of the checkpoint that nobody read, sorted. Rotary buffers, which the config determines, do not count.
    pub(crate) fn unknown_tensors(&self) -> Vec<String> {
        let names = self.checkpoint.names().filter(|name| !name.ends_with("rotary_emb.inv_freq"));
        let names = names.filter(|name| self.options.wants(self.checkpoint.config(), name));
        let mut unknown: Vec<String> =
            names.filter(|name| !self.read.contains(*name)).map(str::to_owned).collect();
        unknown.sort();
        unknown
    }

    /// This rank's part of `width` channels (config key `what`).
    fn channels(&self, what: &'static str, width: usize) -> Result<Part> {
        Ok(Part { range: self.shard().channels(what, width, self.block())?, unit: 1, of: width })
    }

    /// Rows and columns that share a scale; slices keep them together, in both directions alike.
    fn block(&self) -> Option<usize> {
        let quantization = self.checkpoint.config().common().quantization;
        let fp8 = quantization.map(|fp8| fp8.weight_block_size[0].max(fp8.weight_block_size[1]));
        fp8.or(self.checkpoint.longest_block())
    }

    /// As [`Loader::block`], for the experts at `prefix` of width `inter`: FP4 has an exponent for every few columns, and of
    /// fewer groups than ranks a rank has a half, a quarter and so on, so that it never needs parts of two.
    fn expert_block(&self, prefix: &str, inter: usize) -> Option<usize> {
        let info = self.checkpoint.info(&format!("{prefix}.experts.0.{}.weight", self.ffn_names.gate));
        if info.is_none_or(|info| info.dtype != Dtype::I8) {
            return self.block();
        }
        let halves = std::iter::successors(Some(WeightFormat::FP4_GROUP), |unit| Some(unit / 2));
        halves.take_while(|&unit| unit >= 2).find(|&unit| inter.div_ceil(unit) >= self.shard().size())
    }

    fn slice(&mut self, prefix: &str, shape: [usize; 2], slice: &Slice) -> Result<Weight> {
        let weight = self.checkpoint.weight_slice(prefix, shape, slice)?;
        self.upload(&[prefix.to_owned()], shape, weight)
    }

    /// This rank's elements of a vector.
    pub(crate) fn vector(&mut self, name: &str, part: &Part) -> Result<Tensor> {
        let vector = self.checkpoint.vector_f32(name, part.size(), part.indices())?.to_device(self.device)?;
        self.record(vec![name.to_owned()], part.size(), vector.size_bytes());
        Ok(vector)
    }

    /// Moves a weight to the device, which ends its copy on the host, and books it. `shape` is that of the whole
    /// matrices.
    fn upload(&mut self, prefixes: &[String], shape: [usize; 2], weight: Weight) -> Result<Weight> {
        let weight = weight.to_device(self.device)?;
        self.book(prefixes, shape, &weight);
        Ok(weight)
    }

    fn book(&mut self, prefixes: &[String], [n, k]: [usize; 2], weight: &Weight) {
        let names = prefixes.iter().flat_map(|prefix| with_scales(&format!("{prefix}.weight"))).collect();
        self.record(names, prefixes.len() * n * k, weight.size_bytes());
    }

    /// `parameters` are those of all ranks, `bytes` those of this one.
    fn record(&mut self, names: Vec<String>, parameters: usize, bytes: usize) {
        self.parameters += parameters as u64;
        self.bytes += bytes;
        for info in names.iter().filter_map(|name| self.checkpoint.info(name)) {
            self.done.tensors_done += 1;
            self.done.bytes_done += info.size_bytes as u64;
        }
        self.read.extend(names);
        (self.progress)(self.done);
    }
}

/// A tensor and the scales it has if it is quantised, under either of their names.
fn with_scales(name: &str) -> Vec<String> {
    let stem = name.strip_suffix(".weight").unwrap_or(name);
    vec![name.to_owned(), format!("{stem}.weight_scale_inv"), format!("{stem}.scale")]
}
