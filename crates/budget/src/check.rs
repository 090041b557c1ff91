//! Holds what was compiled to the plan: everything that breaks it, in words.

use std::collections::BTreeMap;

use nvcc::Arch;

use crate::compiled::Resources;
use crate::gpu::{Footprint, GPUS, Gpu};
use crate::listing::Instructions;
use crate::plan::{Entry, Plan, matches};

/// A kernel as one GPU's machine code.
#[derive(Clone, Debug, Default)]
pub struct Built {
    /// What it takes.
    pub resources: Resources,
    /// What it is made of.
    pub instructions: Instructions,
}

/// A kernel of the sources.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The source's name without its ending.
    pub stem: String,
    /// The entry function.
    pub name: String,
    /// For each GPU.
    pub built: BTreeMap<Arch, Built>,
}

impl Kernel {
    /// What a block takes of a multiprocessor, the largest launch in mind.
    pub fn footprint(&self, arch: Arch, entry: &Entry) -> Footprint {
        let resources = self.built.get(&arch).map(|built| &built.resources);
        Footprint {
            threads: entry.threads,
            registers: resources.map_or(0, |r| r.registers),
            shared_bytes: resources.map_or(0, |r| r.static_shared) + entry.dynamic_shared,
        }
    }
}

impl Plan {
    /// The entry of a kernel: the first that covers it.
    pub fn entry(&self, kernel: &str) -> Option<&Entry> {
        self.kernel.iter().find(|entry| entry.covers(kernel))
    }
}

/// Everything that is not as planned; empty if all is well.
pub fn violations(plan: &Plan, kernels: &[Kernel]) -> Vec<String> {
    let mut broken = stale_patterns(plan, kernels);
    for (at, kernel) in kernels.iter().enumerate() {
        if let Some(twin) = kernels[..at].iter().find(|other| other.name == kernel.name) {
            broken.push(format!("{} is in {}.cu and in {}.cu", kernel.name, twin.stem, kernel.stem));
        }
        let entries: Vec<&Entry> = plan.kernel.iter().filter(|entry| entry.covers(&kernel.name)).collect();
        match entries.as_slice() {
            [] => broken.push(format!("{} ({}.cu) has no entry", kernel.name, kernel.stem)),
            [entry] => GPUS.iter().for_each(|gpu| broken.extend(over_budget(gpu, kernel, entry))),
            [first, second, ..] => broken
                .push(format!("{} has two entries: {:?} and {:?}", kernel.name, first.names, second.names)),
        }
    }
    broken
}

fn stale_patterns(plan: &Plan, kernels: &[Kernel]) -> Vec<String> {
    let patterns = plan.kernel.iter().flat_map(Entry::patterns);
    let is_stale = |pattern: &String| !kernels.iter().any(|kernel| matches(pattern, &kernel.name));
    patterns.filter(is_stale).map(|pattern| format!("{pattern} matches no kernel")).collect()
}

/// What one kernel takes too much of, or lacks, on one GPU.
fn over_budget(gpu: &Gpu, kernel: &Kernel, entry: &Entry) -> Vec<String> {
    let mut broken = Vec::new();
    let mut fail =
        |what: String| broken.push(format!("{} for sm_{}: {what}", kernel.name, gpu.arch.number()));
    let Some(Built { resources, instructions }) = kernel.built.get(&gpu.arch) else {
        return vec![format!("{} was not compiled for sm_{}", kernel.name, gpu.arch.number())];
    };
    for (what, found, limit) in [
        ("bytes of spills", resources.spills, 0),
        ("bytes of local memory", resources.stack, entry.stack),
        ("registers", resources.registers, entry.registers.of(gpu.arch)),
        ("bytes of static shared memory", resources.static_shared, entry.static_shared),
    ] {
        if found > limit {
            fail(format!("{found} {what}, the budget is {limit}"));
        }
    }
    if resources.threads != entry.threads {
        fail(format!("launch bound {}, the budget says {} threads", resources.threads, entry.threads));
    }
    let blocks = gpu.blocks(kernel.footprint(gpu.arch, entry));
    if blocks < entry.blocks {
        fail(format!(
            "{blocks} blocks fit on a multiprocessor of an {}, {} are wanted",
            gpu.name, entry.blocks
        ));
    }
    for kind in entry.require.iter().filter(|kind| instructions.count(kind) == 0) {
        fail(format!("no {kind} among its {} instructions", instructions.total()));
    }
    for kind in entry.forbid.iter().filter(|kind| instructions.count(kind) > 0) {
        fail(format!("{} {kind}, none is allowed", instructions.count(kind)));
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing;

    const PLAN: &str = r#"
        [[kernel]]
        names = ["gemm_{f32,bf16}"]
        threads = 128
        registers = { sm_80 = 80, sm_90 = 84 }
        static_shared = 1024
        dynamic_shared = 49152
        blocks = 3
        require = ["LDG.128"]
        forbid = ["LDL"]
    "#;

    fn kernel(name: &str, change: impl Fn(&mut Resources), code: &str) -> Kernel {
        let mut resources =
            Resources { registers: 80, static_shared: 1024, threads: 128, ..Default::default() };
        change(&mut resources);
        let sass = format!("\t.section\t.text.{name},\"ax\"\n/*0000*/ {code} ;\n");
        let instructions = listing::read(&sass).remove(name).unwrap();
        let built = Built { resources, instructions };
        Kernel { stem: "gemm".into(), name: name.into(), built: Arch::ALL.map(|a| (a, built.clone())).into() }
    }

    fn check(kernels: &[Kernel]) -> String {
        violations(&toml::from_str(PLAN).unwrap(), kernels).join("\n")
    }

    #[test]
    fn a_plan_that_is_kept_has_no_violations() {
        let good = |name| kernel(name, |_| (), "LDG.E.128 R4, [R2.64]");
        assert_eq!(check(&[good("gemm_f32"), good("gemm_bf16")]), "");
    }

    #[test]
    fn each_breach_is_named() {
        let load = "@P0 LDG.E.128 R4, [R2.64]";
        let good = || kernel("gemm_f32", |_| (), load);
        let with = |change: fn(&mut Resources)| check(&[good(), kernel("gemm_bf16", change, load)]);
        for (found, want) in [
            (with(|r| r.spills = 8), "gemm_bf16 for sm_80: 8 bytes of spills"),
            (with(|r| r.stack = 16), "gemm_bf16 for sm_90: 16 bytes of local memory"),
            (with(|r| r.registers = 81), "gemm_bf16 for sm_80: 81 registers, the budget is 80"),
            (with(|r| r.registers = 85), "gemm_bf16 for sm_90: 85 registers, the budget is 84"),
            (with(|r| r.static_shared = 1025), "1025 bytes of static shared memory"),
            (with(|r| r.threads = 0), "launch bound 0, the budget says 128"),
            (with(|r| r.static_shared = 9000), "2 blocks fit on a multiprocessor of an A100, 3 are wanted"),
            (check(&[good(), kernel("gemm_bf16", |_| (), "LDG.E.64 R4")]), "no LDG.128 among its 1"),
            (check(&[good(), kernel("gemm_bf16", |_| (), "LDL.128 R4")]), "1 LDL, none is allowed"),
            (check(&[good()]), "gemm_bf16 matches no kernel"),
            (check(&[good(), kernel("gemm_f16", |_| (), load)]), "gemm_f16 (gemm.cu) has no entry"),
            (check(&[good(), good()]), "gemm_f32 is in gemm.cu and in gemm.cu"),
        ] {
            assert!(found.contains(want), "{found:?} lacks {want:?}");
        }
        assert!(!with(|r| r.registers = 81).contains("sm_90"), "the budget of one GPU is not the other's");
    }
}
