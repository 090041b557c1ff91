//! How much memory the operating system would still give us.

/// Available bytes, or `None` where the platform does not say.
///
/// Linux reports what can be had without swapping as `MemAvailable`; other platforms go unchecked.
pub fn available_bytes() -> Option<u64> {
    parse_meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::parse_meminfo;

    #[test]
    fn reads_the_line_in_kib() {
        let text = "MemTotal:  100 kB\nMemAvailable:       42 kB\nBuffers: 1 kB\n";
        assert_eq!(parse_meminfo(text), Some(42 * 1024));
        assert_eq!(parse_meminfo("MemTotal: 100 kB\n"), None);
        assert_eq!(parse_meminfo("MemAvailable: many kB\n"), None);
    }
}
