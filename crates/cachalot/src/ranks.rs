//! Loading the ranks of a model, which are threads of this process, each with a device of its own.

use std::sync::Arc;

use checkpoint::{Checkpoint, LoadProgress};
use comm::{Communicator, GroupOptions, Transport};
use engine::{MemoryPlan, RANK_DEADLINE, Rank, Sizes};
use kernels::Device;
use models::{Footprint, ModelError, ModelOptions};

use crate::device::{DeviceOptions, OpenDevices};
use crate::{Error, LoadOptions};

/// Reads the model of `checkpoint` split over `devices`, one for each rank, which meet by way of `transport`, in the forms
/// that `options` asks for on each. They load one after the other, each from the pages that the last one left in the
/// operating system's cache; `progress` counts them as one load.
pub(crate) fn load(
    checkpoint: &Checkpoint,
    devices: Vec<Device>,
    transport: Transport,
    options: impl Fn(&Device) -> ModelOptions,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Vec<Rank>, Error> {
    let size = devices.len();
    let group_options = GroupOptions { transport, deadline: RANK_DEADLINE, ..GroupOptions::default() };
    let group = comm::group(&devices, &group_options).map_err(ModelError::from)?;
    let load = |(rank, (device, comm)): (usize, (Device, Arc<dyn Communicator>))| {
        let mut report = |done| progress(overall(done, rank, size));
        let comm_of_model = Arc::clone(&comm);
        let model = models::load_with(checkpoint, &device, comm_of_model, options(&device), &mut report)?;
        Ok(Rank { model, device, comm })
    };
    devices.into_iter().zip(group).enumerate().map(load).collect()
}

/// What to tell of experts that became INT8.
pub(crate) fn int8_notice(ranks: &[Rank]) -> Option<String> {
    let reports = || ranks.iter().flat_map(|rank| rank.model.int8_experts());
    let stacks = ranks.first().map_or(0, |rank| rank.model.int8_experts().len());
    let worst = reports().map(|report| report.worst().relative_rms).fold(0.0, f32::max);
    // Gate, up and down of each layer.
    let layers = stacks / 3;
    let percent = 100.0 * worst;
    (layers > 0)
        .then(|| format!("routed experts of {layers} layers in INT8: off by at most {percent:.2} % (rms)"))
}

/// The devices of a model's ranks, opened after the number of ranks was checked, which may be a slip.
pub(crate) fn open_devices(
    checkpoint: &Checkpoint,
    options: &DeviceOptions,
    tensor_parallel: usize,
) -> Result<OpenDevices, Error> {
    if tensor_parallel == 0 {
        return Err(Error::option("tensor_parallel", "at least 1", 0));
    }
    models::check_ranks(checkpoint.config(), tensor_parallel)?;
    options.open(tensor_parallel)
}

/// What the model needs of the memory of its GPUs; `None` on the CPU, whose memory the operating system deals out.
pub(crate) fn plan(
    checkpoint: &Checkpoint,
    devices: &[Device],
    sizes: &Sizes,
    options: &LoadOptions,
) -> Result<Option<MemoryPlan>, Error> {
    let Sizes { kv_dtype, kv_tokens, step_tokens, state_slots, rollback, recorded_rows, .. } = *sizes;
    let footprint = |ranks, device: &Device| {
        let model = options.model(device);
        let mut footprint = Footprint::new(checkpoint, ranks, kv_dtype, rollback, step_tokens, model)?;
        if model.mtp {
            let mtp = models::mtp_kv_layout(checkpoint.config()).with_index(options.index);
            footprint.kv_bytes_per_token += mtp.bytes_per_token(kv_dtype)? as u64;
            footprint.kv_bytes_per_sequence += mtp.bytes_per_sequence(kv_dtype, rollback) as u64;
        }
        if recorded_rows > 0 {
            // Beside the rows the state that fill-up rows write to; their block and their inputs are too small to count.
            let row = models::recorded_row_bytes(checkpoint.config(), model.mtp);
            footprint.step_bytes += recorded_rows as u64 * row + footprint.kv_bytes_per_sequence;
        }
        Ok::<_, Error>(footprint)
    };
    let mut tightest = None;
    for device in devices {
        let Some((free, total)) = device.memory_info()? else { return Ok(None) };
        let plan = MemoryPlan {
            device: device.to_string(),
            free_bytes: free as u64,
            total_bytes: total as u64,
            footprint: footprint(devices.len(), device)?,
            kv_tokens: kv_tokens as u64,
            state_slots: state_slots as u64,
        };
        if tightest.as_ref().is_none_or(|(other, _): &(MemoryPlan, _)| plan.free_bytes < other.free_bytes) {
            tightest = Some((plan, device));
        }
    }
    let Some((plan, device)) = tightest else { return Ok(None) };
    plan.check(devices.len(), |ranks| {
        footprint(ranks, device)
            .is_ok_and(|footprint| MemoryPlan { footprint, ..plan.clone() }.needed_bytes() <= plan.free_bytes)
    })?;
    Ok(Some(plan))
}

/// The progress of all ranks when rank `index` of `size` has come as far as `done`, in sizes of one checkpoint.
fn overall(done: LoadProgress, index: usize, size: usize) -> LoadProgress {
    LoadProgress {
        tensors_done: (index * done.tensors_total + done.tensors_done) / size,
        bytes_done: (index as u64 * done.bytes_total + done.bytes_done) / size as u64,
        ..done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_as_one_load() {
        let done = LoadProgress { tensors_done: 3, tensors_total: 10, bytes_done: 40, bytes_total: 100 };
        assert_eq!(overall(done, 0, 1), done);
        let second = overall(done, 1, 2);
        assert_eq!((second.tensors_done, second.bytes_done, second.bytes_total), (6, 70, 100));
    }
}
