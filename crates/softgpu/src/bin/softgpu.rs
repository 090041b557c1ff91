//! Builds the software driver and the kernels of a folder where they are missing, and prints what `scripts/softgpu.sh` sets:
//! the folder to put on the loader path, then the kernels' shared objects for `SOFTGPU_KERNELS`.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let libraries = softgpu::prepare()?;
    let kernels = std::env::args_os().nth(1).map(PathBuf::from);
    let objects = kernels.map_or(Ok(Vec::new()), |folder| softgpu::kernel_objects(&folder))?;
    let objects: Vec<OsString> = objects.into_iter().map(OsString::from).collect();
    let mut out = std::io::stdout().lock();
    for line in [libraries.into_os_string(), objects.join(":".as_ref())] {
        out.write_all(line.as_bytes())?;
        out.write_all(b"\n")?;
    }
    Ok(())
}
