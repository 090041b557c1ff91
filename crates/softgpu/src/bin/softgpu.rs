//! Builds the software driver where it is missing and prints the folder to put on the loader path.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = softgpu::prepare()?;
    let mut out = std::io::stdout().lock();
    out.write_all(folder.as_os_str().as_bytes())?;
    out.write_all(b"\n")?;
    Ok(())
}
