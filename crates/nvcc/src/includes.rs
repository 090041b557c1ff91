//! Which files a source is made of: itself and every `#include "..."` that is found beside it or in an include folder.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;

/// The source and all headers it reaches, sorted. Includes that are not found are the compiler's own and are left out;
/// conditions are not looked at, so a header that only another compiler reads counts too.
pub fn closure(source: &Path, include_dirs: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut found = BTreeSet::new();
    let mut pending = vec![source.to_path_buf()];
    while let Some(file) = pending.pop() {
        if found.contains(&file) {
            continue;
        }
        let text = fs::read_to_string(&file).map_err(Error::io(&file))?;
        let beside = file.parent().unwrap_or(Path::new("."));
        for name in text.lines().filter_map(quoted_include) {
            let folders = std::iter::once(beside).chain(include_dirs.iter().map(PathBuf::as_path));
            pending.extend(folders.map(|folder| folder.join(name)).find(|path| path.is_file()));
        }
        found.insert(file);
    }
    Ok(found.into_iter().collect())
}

/// `tile.cuh` of `#include "tile.cuh"`.
fn quoted_include(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?.trim_start();
    rest.strip_prefix('"')?.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_headers_are_found_beside_the_source_and_in_the_include_folders() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir(root.join("include")).unwrap();
        fs::write(root.join("a.cu"), "#include <math.h>\n  # include \"b.cuh\"\n#include \"none.h\"\n")
            .unwrap();
        fs::write(root.join("unused.cuh"), "").unwrap();
        fs::write(root.join("include/b.cuh"), "#pragma once\n#include \"c.cuh\"\n").unwrap();
        fs::write(root.join("include/c.cuh"), "#include \"b.cuh\" // a circle\n").unwrap();
        let files = closure(&root.join("a.cu"), &[root.join("include")]).unwrap();
        let names: Vec<_> = files.iter().map(|f| f.strip_prefix(root).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.cu", "include/b.cuh", "include/c.cuh"]);
    }
}
