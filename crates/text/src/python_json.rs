//! JSON as Python's `json.dumps(value, ensure_ascii=False)` writes it, which is what chat templates and DeepSeek's encoders put into prompts:
//! separators `", "` and `": "`, keys in their own order, characters unescaped, floats as Python's `repr`.

use serde_json::Value;

/// Writes `value` on one line, or with `indent` spaces per level on several.
pub(crate) fn dumps(value: &Value, indent: Option<usize>) -> String {
    let mut out = String::new();
    write_value(&mut out, value, indent, 0);
    out
}

fn write_value(out: &mut String, value: &Value, indent: Option<usize>, level: usize) {
    match value {
        Value::Array(items) => {
            let items = items.iter().map(|item| (None, item));
            write_list(out, ('[', ']'), items, indent, level);
        }
        Value::Object(members) => {
            let members = members.iter().map(|(key, member)| (Some(key), member));
            write_list(out, ('{', '}'), members, indent, level);
        }
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => write_float(out, float),
            _ => out.push_str(&number.to_string()),
        },
        Value::String(text) => write_string(out, text),
        Value::Null | Value::Bool(_) => out.push_str(&value.to_string()),
    }
}

fn write_list<'a>(
    out: &mut String,
    (open, close): (char, char),
    items: impl Iterator<Item = (Option<&'a String>, &'a Value)>,
    indent: Option<usize>,
    level: usize,
) {
    let line_break = |out: &mut String, level: usize| {
        if let Some(width) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', width * level));
        }
    };
    out.push(open);
    let mut empty = true;
    for (key, item) in items {
        if !empty {
            out.push_str(if indent.is_some() { "," } else { ", " });
        }
        empty = false;
        line_break(out, level + 1);
        if let Some(key) = key {
            write_string(out, key);
            out.push_str(": ");
        }
        write_value(out, item, indent, level + 1);
    }
    if !empty {
        line_break(out, level);
    }
    out.push(close);
}

fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Python's `repr`: shortest digits, scientific below 1e-4 and from 1e16 with a sign and at least two digits in the exponent.
fn write_float(out: &mut String, float: f64) {
    let scientific = format!("{float:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else {
        out.push_str(&scientific);
        return;
    };
    match exponent.parse::<i32>() {
        Ok(exponent) if float != 0.0 && !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            out.push_str(&format!("{digits}e{sign}{:02}", exponent.abs()));
        }
        _ => out.push_str(&format!("{float:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redump(json: &str) -> String {
        dumps(&serde_json::from_str(json).unwrap(), None)
    }

    #[test]
    fn one_line_as_python() {
        assert_eq!(
            redump(r#"{"b":[1,2.50,{}],"a":null,"é":true,"s":"<\"\u0001\n/>"}"#),
            r#"{"b": [1, 2.5, {}], "a": null, "é": true, "s": "<\"\u0001\n/>"}"#
        );
    }

    #[test]
    fn indented_as_python() {
        let value = serde_json::json!({"a": [1, {}], "b": []});
        assert_eq!(dumps(&value, Some(2)), "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}");
    }

    #[test]
    fn floats_as_python() {
        for (json, python) in [
            ("1.0", "1.0"),
            ("-0.0", "-0.0"),
            ("0.1", "0.1"),
            ("1e15", "1000000000000000.0"),
            ("1e16", "1e+16"),
            ("1.5e300", "1.5e+300"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("-2.5e-7", "-2.5e-07"),
            ("18446744073709551615", "18446744073709551615"),
        ] {
            assert_eq!(redump(json), python);
        }
    }
}
