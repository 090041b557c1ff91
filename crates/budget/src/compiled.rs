//! Reads what the compiler says of a kernel: the assembler's report, and the launch bound in the PTX.

use std::collections::BTreeMap;

/// One kernel as compiled for one GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Static shared memory, bytes.
    pub static_shared: u32,
    /// Registers that went to memory and back, bytes; with those of functions that were not inlined.
    pub spills: u32,
    /// Local memory of a thread, bytes: arrays that are indexed at run time, or spills.
    pub stack: u32,
    /// From `__launch_bounds__`; 0 without it.
    pub threads: u32,
}

/// Every kernel of a source: `log` is the report of `ptxas -v`, `ptx` its input.
pub fn read(log: &str, ptx: &str) -> BTreeMap<String, Resources> {
    let bounds = launch_bounds(ptx);
    let mut kernels = BTreeMap::new();
    let mut name = None;
    for line in log.lines() {
        if let Some(rest) = line.split_once("Compiling entry function '").map(|(_, rest)| rest) {
            let kernel = rest.split('\'').next().unwrap_or_default().to_owned();
            let threads = bounds.get(&kernel).copied().unwrap_or(0);
            kernels.insert(kernel.clone(), Resources { threads, ..Resources::default() });
            name = Some(kernel);
        }
        let Some(kernel) = name.as_ref().and_then(|name| kernels.get_mut(name)) else { continue };
        if line.contains("bytes stack frame") {
            kernel.stack += number_before(line, " bytes stack frame");
            kernel.spills +=
                number_before(line, " bytes spill stores") + number_before(line, " bytes spill loads");
        } else if line.contains(": Used ") {
            kernel.registers = number_before(line, " registers");
            kernel.static_shared = number_before(line, " bytes smem");
        }
    }
    kernels
}

/// The number that ends where `text` begins; 0 if `text` is not there.
fn number_before(line: &str, text: &str) -> u32 {
    let Some(end) = line.find(text) else { return 0 };
    let digits = line[..end].bytes().rev().take_while(u8::is_ascii_digit).count();
    line[end - digits..end].parse().unwrap_or(0)
}

/// `.maxntid 128, 1, 1` after `.visible .entry name(`: the product, by name.
fn launch_bounds(ptx: &str) -> BTreeMap<String, u32> {
    let mut bounds = BTreeMap::new();
    let mut name = String::new();
    for line in ptx.lines() {
        if let Some((_, rest)) = line.split_once(".entry ") {
            rest.split('(').next().unwrap_or_default().trim().clone_into(&mut name);
        } else if let Some(rest) = line.trim_start().strip_prefix(".maxntid ") {
            let threads = rest.split(',').filter_map(|n| n.trim().parse::<u32>().ok()).product();
            bounds.insert(name.clone(), threads);
        }
    }
    bounds
}

/// Warnings of compiler and assembler.
pub fn warnings(log: &str) -> Vec<String> {
    log.lines().filter(|line| line.contains("warning")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'softmax' for 'sm_80'
ptxas info    : Function properties for softmax
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 30 registers, used 1 barriers, 1024 bytes smem, 376 bytes cmem[0]
ptxas info    : Compile time = 5.058 ms
ptxas info    : Compiling entry function 'gemm' for 'sm_80'
ptxas info    : Function properties for gemm
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 388 bytes cmem[0]
ptxas info    : Function properties for _Z6helperPf
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
a.cu(3): warning #177-D: variable \"x\" was declared but never referenced
";
    const PTX: &str = ".visible .entry softmax(\n\t.param .u64 softmax_param_0\n)\n.maxntid 16, 8, 1\n{\n}\n\
                       .visible .entry gemm(\n)\n{\n}\n";

    #[test]
    fn resources_of_each_kernel_are_read() {
        let kernels = read(LOG, PTX);
        let softmax = Resources { registers: 30, static_shared: 1024, threads: 128, ..Resources::default() };
        assert_eq!(kernels["softmax"], softmax);
        let gemm = Resources { registers: 255, spills: 20, stack: 16, ..Resources::default() };
        assert_eq!(kernels["gemm"], gemm, "spills of a function that was not inlined count");
        assert_eq!(kernels.len(), 2);
        assert_eq!(warnings(LOG).len(), 1);
    }
}
