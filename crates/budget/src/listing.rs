//! Reads a disassembly: which instructions each kernel is made of.

use std::collections::BTreeMap;

/// How often each instruction, with its modifiers, stands in a kernel.
#[derive(Clone, Debug, Default)]
pub struct Instructions(BTreeMap<String, u32>);

/// Every kernel of `nvdisasm -c`.
pub fn read(sass: &str) -> BTreeMap<String, Instructions> {
    let mut kernels: BTreeMap<String, Instructions> = BTreeMap::new();
    let mut name = None;
    for line in sass.lines() {
        let line = line.trim_start();
        if let Some(rest) = line.strip_prefix(".section\t.text.").or(line.strip_prefix(".section .text.")) {
            name = rest.split(',').next().map(|name| name.trim_matches('"').to_owned());
        } else if let (Some(name), Some(mnemonic)) = (&name, mnemonic(line)) {
            *kernels.entry(name.clone()).or_default().0.entry(mnemonic.to_owned()).or_default() += 1;
        }
    }
    kernels
}

/// `LDG.E.128` of `/*0010*/ @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;`.
fn mnemonic(line: &str) -> Option<&str> {
    let (_, code) = line.strip_prefix("/*")?.split_once("*/")?;
    let mut words = code.split_whitespace();
    let first = words.next()?;
    let word = if first.starts_with('@') { words.next()? } else { first };
    let word = word.trim_end_matches(';');
    word.starts_with(|c: char| c.is_ascii_uppercase()).then_some(word)
}

impl Instructions {
    /// How many instructions are of a kind: `LDG.128` is any `LDG` with `128` among its modifiers.
    pub fn count(&self, kind: &str) -> u32 {
        let mut parts = kind.split('.');
        let operation = parts.next().unwrap_or_default();
        let modifiers: Vec<&str> = parts.collect();
        let matches = |instruction: &str| {
            let mut found = instruction.split('.');
            let is_operation = found.next() == Some(operation);
            let found: Vec<&str> = found.collect();
            is_operation && modifiers.iter().all(|modifier| found.contains(modifier))
        };
        self.0.iter().filter(|(name, _)| matches(name)).map(|(_, count)| count).sum()
    }

    /// All of them.
    pub fn total(&self) -> u32 {
        self.0.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SASS: &str = "\t.section\t.text.gemm,\"ax\",@progbits\n\t.align\t128\n.text.gemm:\n\
        \x20       /*0000*/                   IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ;\n\
        \x20       /*0010*/              @!P0 LDG.E.128.CONSTANT R4, [R2.64] ;\n\
        \x20       /*0020*/               @P1 LDG.E R4, [R2.64] ;\n\
        .L_x_1:\n\
        \x20       /*0030*/                   HMMA.16816.F32.BF16 R4, R8, R6, R4 ;\n\
        \x20       /*0040*/                   EXIT ;\n\
        //---------- .text.other ----------\n\t.section\t.text.other,\"ax\",@progbits\n\
        \x20       /*0000*/                   EXIT ;\n";

    #[test]
    fn instructions_of_each_kernel_are_counted() {
        let kernels = read(SASS);
        let gemm = &kernels["gemm"];
        assert_eq!((gemm.total(), kernels["other"].total()), (5, 1));
        assert_eq!((gemm.count("LDG"), gemm.count("LDG.128"), gemm.count("LDG.64")), (2, 1, 0));
        assert_eq!((gemm.count("HMMA"), gemm.count("HMMA.BF16"), gemm.count("HMM")), (1, 1, 0));
        assert_eq!(gemm.count("IMAD.MOV.U32"), 1);
    }
}
