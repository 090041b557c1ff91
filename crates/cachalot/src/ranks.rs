//! Loading the ranks of a model, which are threads of this process, each with a device of its own.

use std::sync::Arc;

use checkpoint::{Checkpoint, LoadProgress};
use comm::{Communicator, GroupOptions, Transport};
use engine::{Drafter, MemoryPlan, RANK_DEADLINE, Rank, Sizes};
use kernels::Device;
use models::{ExpertFormat, Footprint, ModelError};

use crate::device::{DeviceOptions, OpenDevices};
use crate::{Error, LoadOptions};

/// Reads the model of `checkpoint` split over `devices`, one for each rank, which meet by way of `transport`. They load one after the other, each from
/// the pages that the last one left in the operating system's cache; `progress` counts them as one load.
pub(crate) fn load(
    checkpoint: &Checkpoint,
    devices: Vec<Device>,
    transport: Transport,
    experts: Option<ExpertFormat>,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Vec<Rank>, Error> {
    let size = devices.len();
    let options = GroupOptions { transport, deadline: RANK_DEADLINE, ..GroupOptions::default() };
    let group = comm::group(&devices, &options).map_err(ModelError::from)?;
    let load = |(index, (device, comm)): (usize, (Device, Arc<dyn Communicator>))| {
        let mut report = |done| progress(overall(done, index, size));
        let experts = experts.unwrap_or_else(|| ExpertFormat::default_for(&device));
        let model = models::load_with_experts(checkpoint, &device, Arc::clone(&comm), experts, &mut report)?;
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
    let Sizes { kv_dtype, kv_tokens, step_tokens, state_slots, .. } = *sizes;
    let drafts = options.speculation.is_some_and(|speculation| speculation.drafter == Drafter::Mtp);
    let footprint = |ranks, device: &Device| {
        let experts = options.experts.unwrap_or_else(|| ExpertFormat::default_for(device));
        let mut footprint = Footprint::new(checkpoint, ranks, kv_dtype, step_tokens, experts)?;
        if drafts {
            let mtp = models::mtp_kv_layout(checkpoint.config()).bytes_per_token(kv_dtype)?;
            footprint.kv_bytes_per_token += mtp as u64;
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
