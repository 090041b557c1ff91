//! Compiles every CUDA kernel for sm_80 and sm_90 and holds it to `kernels/cuda/budget.toml`: no spills, no more registers
//! and shared memory than planned, the instructions that it is for. Prints the tables; exits with 1 if anything is not as
//! planned. Needs the CUDA compiler and no GPU.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the tables are what this binary is for")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use budget::check::{Built, Kernel, violations};
use budget::plan::Plan;
use budget::{compiled, listing, report};
use clap::Parser;
use nvcc::{Arch, Compiler, Search, Toolkit, in_parallel, sources};

/// Hold the CUDA kernels to their budget, without a GPU.
#[derive(Debug, Parser)]
struct Args {
    /// Folder of the `.cu` files; their headers are in its `include`.
    #[arg(long)]
    kernels: Option<PathBuf>,
    /// The budget; `budget.toml` beside the kernels if not given.
    #[arg(long)]
    budget: Option<PathBuf>,
    /// Folder for `kernel-budget.md` and `kernel-budget.svg`; the build's target folder if not given.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Compilers that run at a time; one per core if not given.
    #[arg(long)]
    jobs: Option<usize>,
    /// Only list what was compiled, without a budget: to write one.
    #[arg(long)]
    list: bool,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let folder = args.kernels.unwrap_or_else(|| root.join("kernels/cuda"));
    let toolkit =
        Toolkit::find(&Search::standard(|name| std::env::var_os(name), std::slice::from_ref(&target)))?;
    let version = toolkit.version();
    let includes = [root.join("crates/softgpu/include"), folder.join("include")];
    let compiler = Compiler::new(toolkit, &includes, &target.join("cuda-objects"));
    let jobs = args.jobs.or(std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let (kernels, mut broken) = compile(&compiler, &sources(&folder)?, jobs)?;
    if args.list {
        list(&kernels);
        return Ok(ExitCode::SUCCESS);
    }
    let file = args.budget.unwrap_or_else(|| folder.join("budget.toml"));
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let plan: Plan = toml::from_str(&text).with_context(|| file.display().to_string())?;
    broken.extend(violations(&plan, &kernels));

    let summary = format!("# Kernels as nvcc {version} compiles them: A100 (sm_80) and H100 (sm_90)\n\n");
    let markdown = summary + &report::resources(&plan, &kernels) + "\n" + &report::roofline(&plan);
    print!("{markdown}");
    let out = args.out.unwrap_or(target);
    for (name, text) in [("kernel-budget.md", &markdown), ("kernel-budget.svg", &report::picture(&plan))] {
        let file = out.join(name);
        fs::write(&file, text).with_context(|| file.display().to_string())?;
    }
    for what in &broken {
        eprintln!("over budget: {what}");
    }
    println!("\n{} kernels, {} not as planned", kernels.len(), broken.len());
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every kernel of the sources, and the compiler's warnings.
fn compile(compiler: &Compiler, sources: &[PathBuf], jobs: usize) -> Result<(Vec<Kernel>, Vec<String>)> {
    ensure!(!sources.is_empty(), "no .cu files");
    let work: Vec<(&PathBuf, Arch)> =
        sources.iter().flat_map(|source| Arch::ALL.map(|arch| (source, arch))).collect();
    let (mut kernels, mut warnings): (Vec<Kernel>, _) = (Vec::new(), Vec::new());
    let built = in_parallel(&work, jobs, |(source, arch)| build(compiler, source, *arch));
    for ((source, arch), built) in work.iter().zip(built) {
        let (of_arch, warned) = built.with_context(|| source.display().to_string())?;
        warnings.extend(warned);
        let stem = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for (name, built) in of_arch {
            match kernels.iter_mut().find(|kernel| kernel.stem == stem && kernel.name == name) {
                Some(kernel) => drop(kernel.built.insert(*arch, built)),
                None => {
                    kernels.push(Kernel {
                        stem: stem.clone(),
                        name,
                        built: BTreeMap::from([(*arch, built)]),
                    });
                }
            }
        }
    }
    warnings.sort();
    warnings.dedup();
    Ok((kernels, warnings))
}

/// The kernels of one source for one GPU, and what the compiler warned of.
fn build(compiler: &Compiler, source: &Path, arch: Arch) -> Result<(BTreeMap<String, Built>, Vec<String>)> {
    let object = compiler.object(source, arch)?;
    let ptx = fs::read_to_string(&object.ptx).with_context(|| object.ptx.display().to_string())?;
    let mut instructions = listing::read(&compiler.disassembly(&object)?);
    let built = compiled::read(&object.log, &ptx)
        .into_iter()
        .map(|(name, resources)| {
            let instructions = instructions.remove(&name).unwrap_or_default();
            (name, Built { resources, instructions })
        })
        .collect();
    Ok((built, compiled::warnings(&object.log)))
}

/// One line per kernel with what a budget needs to know.
fn list(kernels: &[Kernel]) {
    for kernel in kernels {
        for (arch, built) in &kernel.built {
            let of = &built.resources;
            let kinds = ["HMMA", "IMMA", "LDSM", "LDGSTS", "LDG.128", "STG.128"];
            let found: Vec<&str> =
                kinds.into_iter().filter(|kind| built.instructions.count(kind) > 0).collect();
            println!(
                "{}.cu {} sm_{}: threads {} registers {} shared {} spills {} stack {} {}",
                kernel.stem,
                kernel.name,
                arch.number(),
                of.threads,
                of.registers,
                of.static_shared,
                of.spills,
                of.stack,
                found.join(" ")
            );
        }
    }
}
