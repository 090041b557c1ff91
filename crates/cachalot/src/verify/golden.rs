//! [`Golden`]: the reference values of a checkpoint, read from `golden.safetensors` and checked for sense.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use super::Key;
use crate::Error;

/// Name of the file beside the weights.
pub const GOLDEN_FILE: &str = "golden.safetensors";

/// Every tensor of a golden file, by name.
#[derive(Debug)]
pub struct Golden {
    tensors: BTreeMap<String, GoldenTensor>,
}

/// One reference tensor on the host.
#[derive(Debug, Clone)]
pub(crate) struct GoldenTensor {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Values,
}

#[derive(Debug, Clone)]
pub(crate) enum Values {
    /// Any float dtype, widened.
    Float(Vec<f64>),
    /// Any integer dtype, widened.
    Integer(Vec<i64>),
}

impl Golden {
    /// Reads the golden file of the model directory `dir`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Golden`] if it is no safetensors file or has no tensor.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(GOLDEN_FILE);
        let bytes = std::fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|e| Error::golden(GOLDEN_FILE, "a safetensors file", e.to_string()))?;
        let tensors = file
            .iter()
            .map(|(name, view)| {
                let values = values(name, view.dtype(), view.data())?;
                Ok((name.to_owned(), GoldenTensor { shape: view.shape().to_vec(), values }))
            })
            .collect::<Result<BTreeMap<_, _>, Error>>()?;
        if tensors.is_empty() {
            return Err(Error::golden(GOLDEN_FILE, "at least one tensor", "none"));
        }
        Ok(Self { tensors })
    }

    /// Every key with its meaning, in the order of the report: by prompt length, greedy last.
    pub(crate) fn keys(&self) -> Vec<(String, Key)> {
        let mut keys: Vec<_> = self.tensors.keys().map(|name| (name.clone(), Key::parse(name))).collect();
        keys.sort_by_key(|(name, key)| (key.prompt().unwrap_or(usize::MAX), name.clone()));
        keys
    }

    pub(crate) fn get(&self, key: &str) -> Option<&GoldenTensor> {
        self.tensors.get(key)
    }

    /// Token ids under `key`, `[n]`.
    ///
    /// # Errors
    /// [`Error::Golden`] if the key is missing, is not a non-empty vector of integers, or holds an id outside the
    /// vocabulary. `needed_by` is named where the key is missing.
    pub(crate) fn token_ids(&self, key: &str, needed_by: &str, vocab_size: usize) -> Result<Vec<u32>, Error> {
        let tensor = self.get(key).ok_or_else(|| {
            Error::golden(key, format!("token ids, because {needed_by} needs them"), "nothing")
        })?;
        let Values::Integer(ids) = &tensor.values else {
            return Err(Error::golden(key, "integers", "floats"));
        };
        if tensor.shape.len() != 1 || ids.is_empty() {
            return Err(Error::golden(
                key,
                "a vector of at least one id",
                format!("shape {:?}", tensor.shape),
            ));
        }
        ids.iter()
            .map(|&id| {
                u32::try_from(id)
                    .ok()
                    .filter(|&id| (id as usize) < vocab_size)
                    .ok_or_else(|| Error::golden(key, format!("ids below {vocab_size}"), id.to_string()))
            })
            .collect()
    }

    /// Floats under `key` of exactly `shape`, none of them NaN.
    pub(crate) fn floats(&self, key: &str, shape: &[usize]) -> Result<&[f64], Error> {
        let tensor = self.shaped(key, shape)?;
        let Values::Float(values) = &tensor.values else {
            return Err(Error::golden(key, "floats", "integers"));
        };
        match values.iter().position(|v| !v.is_finite()) {
            Some(i) => Err(Error::golden(key, "finite values", format!("{} at element {i}", values[i]))),
            None => Ok(values),
        }
    }

    /// Integers under `key` of exactly `shape`.
    pub(crate) fn integers(&self, key: &str, shape: &[usize]) -> Result<&[i64], Error> {
        let tensor = self.shaped(key, shape)?;
        match &tensor.values {
            Values::Integer(values) => Ok(values),
            Values::Float(_) => Err(Error::golden(key, "integers", "floats")),
        }
    }

    fn shaped(&self, key: &str, shape: &[usize]) -> Result<&GoldenTensor, Error> {
        let tensor = self
            .get(key)
            .ok_or_else(|| Error::golden(key, format!("a tensor of shape {shape:?}"), "nothing"))?;
        if tensor.shape != shape {
            return Err(Error::golden(key, format!("shape {shape:?}"), format!("{:?}", tensor.shape)));
        }
        Ok(tensor)
    }
}

/// Widens stored values; a dtype without an exact widening is an error.
fn values(key: &str, dtype: Dtype, data: &[u8]) -> Result<Values, Error> {
    fn read<const N: usize, T>(data: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
        data.as_chunks::<N>().0.iter().map(|&bytes| convert(bytes)).collect()
    }
    Ok(match dtype {
        Dtype::F64 => Values::Float(read(data, f64::from_le_bytes)),
        Dtype::F32 => Values::Float(read(data, |b| f64::from(f32::from_le_bytes(b)))),
        Dtype::F16 => Values::Float(read(data, |b| f16::from_le_bytes(b).to_f64())),
        Dtype::BF16 => Values::Float(read(data, |b| bf16::from_le_bytes(b).to_f64())),
        Dtype::I64 => Values::Integer(read(data, i64::from_le_bytes)),
        Dtype::I32 => Values::Integer(read(data, |b| i64::from(i32::from_le_bytes(b)))),
        Dtype::U32 => Values::Integer(read(data, |b| i64::from(u32::from_le_bytes(b)))),
        Dtype::I16 => Values::Integer(read(data, |b| i64::from(i16::from_le_bytes(b)))),
        Dtype::U16 => Values::Integer(read(data, |b| i64::from(u16::from_le_bytes(b)))),
        Dtype::I8 => Values::Integer(read(data, |b| i64::from(i8::from_le_bytes(b)))),
        Dtype::U8 | Dtype::BOOL => Values::Integer(read(data, |b| i64::from(u8::from_le_bytes(b)))),
        other => return Err(Error::golden(key, "a plain float or integer dtype", format!("{other:?}"))),
    })
}
