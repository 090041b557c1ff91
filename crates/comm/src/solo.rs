//! [`Solo`]: the group of one rank, where every collective is the identity.

use kernels::Tensor;

use crate::{Communicator, Result};

/// The only rank there is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Solo;

impl Communicator for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn is_capturable(&self) -> bool {
        true
    }

    fn all_reduce(&self, _x: &mut Tensor) -> Result<()> {
        Ok(())
    }

    fn all_gather_cols(&self, x: &Tensor, _widths: &[usize]) -> Result<Tensor> {
        Ok(x.clone())
    }

    fn reduce_scatter_rows(&self, x: &Tensor, _rows: &[usize]) -> Result<Tensor> {
        Ok(x.clone())
    }

    fn all_to_all(&self, x: &Tensor, _send: &[usize], _receive: &[usize]) -> Result<Tensor> {
        Ok(x.clone())
    }

    fn broadcast(&self, _x: &mut Tensor, _root: usize) -> Result<()> {
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }

    fn abort(&self, _reason: &str) {}
}
