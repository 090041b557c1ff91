//! [`Modules`]: the machine code on the device, loaded stem by stem when it is first needed.

use std::collections::HashMap;
use std::ffi::{CString, c_void};

use cudarc::driver::{result, sys};

use crate::cuda::device::words;
use crate::cuda::{CudaDevice, image};
use crate::{KernelError, Result};

/// What a kernel may use without asking; more is granted per kernel.
const DEFAULT_SHARED_BYTES: u32 = 48 << 10;
/// How many stems a fault names.
const RECENT: usize = 8;

/// Loaded modules and functions, and the stems launched last.
#[derive(Default)]
pub(super) struct Modules {
    modules: HashMap<&'static str, sys::CUmodule>,
    functions: HashMap<String, Function>,
    recent: Vec<&'static str>,
}

#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    shared_bytes: u32,
}

// SAFETY: module and function handles may be used from any thread with the context bound, which every use does.
unsafe impl Send for Modules {}

impl Modules {
    /// Kernel `name` of `stem`, allowed so much dynamic shared memory. `device` must be bound to this thread.
    pub(super) fn function(
        &mut self,
        device: &CudaDevice,
        stem: &'static str,
        name: &str,
        shared_bytes: u32,
    ) -> Result<sys::CUfunction> {
        if self.recent.last() != Some(&stem) {
            if self.recent.len() == RECENT {
                self.recent.remove(0);
            }
            self.recent.push(stem);
        }
        let known = self.functions.get(name).copied();
        if let Some(Function { handle, .. }) = known.filter(|f| shared_bytes <= f.shared_bytes) {
            return Ok(handle);
        }
        let handle = match known {
            Some(function) => function.handle,
            None => {
                let module = self.module(device, stem)?;
                let symbol = CString::new(name).map_err(|e| device.error(name, e.to_string()))?;
                // SAFETY: the module stays loaded as long as the device.
                device.check(name, unsafe { result::module::get_function(module, symbol) })?
            }
        };
        if shared_bytes > DEFAULT_SHARED_BYTES {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the handle is a function of a loaded module.
            let set =
                unsafe { result::function::set_function_attribute(handle, attribute, shared_bytes as i32) };
            device.check(name, set)?;
        }
        let shared_bytes = shared_bytes.max(DEFAULT_SHARED_BYTES);
        self.functions.insert(name.to_owned(), Function { handle, shared_bytes });
        Ok(handle)
    }

    fn module(&mut self, device: &CudaDevice, stem: &'static str) -> Result<sys::CUmodule> {
        if let Some(&module) = self.modules.get(stem) {
            return Ok(module);
        }
        let image = image::find(stem).ok_or_else(|| device.error(stem, "no such kernel image".into()))?;
        // SAFETY: the image is a fatbin, or words that end in a zero byte.
        let loaded = unsafe { result::module::load_data(image.as_ptr().cast::<c_void>()) };
        let module = loaded.map_err(|error| match image::has_machine_code() {
            true => device.error(stem, words(error)),
            false => KernelError::Unavailable {
                device: format!("cuda:{}", device.ordinal()),
                reason: "this build has no machine code for GPUs; build with `--features cuda`".into(),
            },
        })?;
        self.modules.insert(stem, module);
        Ok(module)
    }

    /// The stems launched last, the latest at the end.
    pub(super) fn recent(&self) -> String {
        self.recent.join(", ")
    }

    /// Unloads everything.
    ///
    /// # Safety
    /// The context must be bound, and no kernel running or recorded.
    pub(super) unsafe fn unload(&mut self) {
        self.functions.clear();
        for (_, module) in self.modules.drain() {
            // SAFETY: loaded by `module` and no longer used, as the caller says.
            let _ = unsafe { result::module::unload(module) };
        }
    }
}
