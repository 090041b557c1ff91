//! Loading the ranks of a model, which are threads of this process.

use std::sync::Arc;

use checkpoint::{Checkpoint, LoadProgress};
use comm::{Communicator, Solo, Threads};
use engine::{RANK_DEADLINE, Rank};
use kernels::Device;

use crate::Error;

/// Reads the model of `checkpoint` split over `tensor_parallel` ranks. They load one after the other, each from the
/// pages that the last one left in the operating system's cache; `progress` counts them as one load.
pub(crate) fn load(
    checkpoint: &Checkpoint,
    tensor_parallel: usize,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Vec<Rank>, Error> {
    let group: Vec<Arc<dyn Communicator>> = match tensor_parallel {
        0 => return Err(Error::option("tensor_parallel", "at least 1", 0)),
        1 => vec![Arc::new(Solo)],
        size => {
            // Before a group of this size is made: the number may be a slip.
            models::check_ranks(checkpoint.config(), size)?;
            let threads = Threads::group(size, RANK_DEADLINE).into_iter();
            threads.map(|rank| Arc::new(rank) as Arc<dyn Communicator>).collect()
        }
    };
    let load = |(index, comm): (usize, Arc<dyn Communicator>)| {
        let device = Device::Cpu;
        let mut report = |done| progress(overall(done, index, tensor_parallel));
        let model = models::load(checkpoint, &device, Arc::clone(&comm), &mut report)?;
        Ok(Rank { model, device, comm })
    };
    group.into_iter().enumerate().map(load).collect()
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
