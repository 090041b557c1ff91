//! Config files: every key is a long option of the subcommand, so that a file can say what a command line can say, and
//! is checked by the same code. What the command line says comes later and wins.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, bail};
use toml::Value;

/// The options in a file as arguments.
pub(crate) fn arguments(path: &Path) -> anyhow::Result<Vec<OsString>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let table: toml::Table =
        text.parse().with_context(|| format!("{} is not a config file", path.display()))?;
    let mut arguments = Vec::new();
    for (key, value) in &table {
        option(key, value, &mut arguments).with_context(|| format!("{}: {key}", path.display()))?;
    }
    Ok(arguments)
}

/// One option; a list repeats it, `true` sets a flag, `false` does not.
fn option(key: &str, value: &Value, arguments: &mut Vec<OsString>) -> anyhow::Result<()> {
    if key == "config" {
        bail!("a config file cannot name another one");
    }
    // An option's name with underscores is the same option.
    let name = key.replace('_', "-");
    let mut push = |value: String| arguments.push(format!("--{name}={value}").into());
    match value {
        Value::Boolean(true) => arguments.push(format!("--{name}").into()),
        Value::Boolean(false) => {}
        Value::String(text) => push(text.clone()),
        Value::Integer(number) => push(number.to_string()),
        Value::Float(number) => push(number.to_string()),
        Value::Array(values) => {
            for value in values {
                if value.is_array() {
                    bail!("expected a list of single values, found a list in a list");
                }
                option(key, value, arguments)?;
            }
        }
        other => bail!("expected text, a number, true, false or a list, found a {}", other.type_str()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<OsString>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        arguments(file.path()).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn every_kind_of_value_becomes_arguments() {
        let text = "host = \"::1\"\nport = 80\nmax_num_seqs = 4\nserved-model-name = [\"a\", \"b\"]\n\
                    no-prefix-cache = true\ncuda-sync = false";
        let expected = [
            "--host=::1",
            "--max-num-seqs=4",
            "--no-prefix-cache",
            "--port=80",
            "--served-model-name=a",
            "--served-model-name=b",
        ];
        // A table has no order; a list has.
        let mut found = read(text).unwrap();
        found.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_no_option_is_refused_by_name() {
        for (text, part) in [
            ("host = {a = 1}", "host: expected text"),
            ("config = \"other.toml\"", "config: a config file cannot"),
            ("port = [[1]]", "port: expected a list of single values"),
            ("port", "is not a config file"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
