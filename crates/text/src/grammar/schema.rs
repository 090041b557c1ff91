//! JSON schemas from clients: what is too large is refused before it is compiled, and what does not compile is found.

use serde_json::{Map, Value, json};

use super::{GrammarLimits, expression, invalid};
use crate::error::{Error, Result};

/// Keywords whose value is one schema.
const ONE: [&str; 7] = ["items", "additionalProperties", "contains", "not", "if", "then", "else"];
/// Keywords whose value is a list of schemas.
const LIST: [&str; 4] = ["anyOf", "oneOf", "allOf", "prefixItems"];
/// Keywords whose value is an object of schemas.
const NAMED: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];
/// Keywords that count something.
const COUNTS: [&str; 6] =
    ["minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"];

/// White space between the parts of JSON. Without an end to it, a model may write line breaks until it runs out of tokens.
const WHITE_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,40}";

/// Checks size, depth and counts.
pub(super) fn check(path: &str, schema: &Value, limits: &GrammarLimits) -> Result<()> {
    let too_large = |path: &str, unit, limit, found| {
        Err(Error::GrammarTooLarge { path: path.to_owned(), unit, limit, found })
    };
    let (bytes, limit) = (schema.to_string().len() as u64, limits.max_bytes as u64);
    if bytes > limit {
        return too_large(path, "bytes", limit, bytes);
    }
    let mut pending = vec![(path.to_owned(), schema, 0)];
    while let Some((path, schema, depth)) = pending.pop() {
        if depth > limits.max_depth {
            return too_large(&path, "nested schemas", limits.max_depth as u64, depth as u64);
        }
        if !schema.is_object() && !schema.is_boolean() {
            return Err(invalid(path, format!("expected a schema, found {schema}")));
        }
        for keyword in COUNTS {
            if let Some(count) = schema.get(keyword).and_then(Value::as_f64)
                && count > limits.max_count as f64
            {
                return too_large(&format!("{path}.{keyword}"), "of it", limits.max_count, count as u64);
            }
        }
        if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
            expression::check(&format!("{path}.pattern"), pattern, limits.max_count)?;
        }
        for name in schema.get("patternProperties").and_then(Value::as_object).into_iter().flat_map(Map::keys)
        {
            expression::check(&format!("{path}.patternProperties"), name, limits.max_count)?;
        }
        if let Some(reference) = schema.get("$ref").and_then(Value::as_str)
            && !reference.starts_with('#')
        {
            let reason = format!("expected a reference into this schema (#...), found {reference:?}");
            return Err(invalid(format!("{path}.$ref"), reason));
        }
        let below = children(&path, schema)?;
        pending.extend(below.into_iter().map(|(path, schema)| (path, schema, depth + 1)));
    }
    Ok(())
}

/// The schemas right below a schema, each with its place.
fn children<'a>(path: &str, schema: &'a Value) -> Result<Vec<(String, &'a Value)>> {
    let mut found = Vec::new();
    for keyword in ONE {
        if let Some(value) = schema.get(keyword) {
            found.push((format!("{path}.{keyword}"), value));
        }
    }
    for keyword in LIST {
        if let Some(value) = schema.get(keyword) {
            let place = format!("{path}.{keyword}");
            let list = value.as_array().ok_or_else(|| invalid(&place, "expected a list of schemas"))?;
            found.extend(list.iter().enumerate().map(|(i, value)| (format!("{place}[{i}]"), value)));
        }
    }
    for keyword in NAMED {
        if let Some(value) = schema.get(keyword) {
            let place = format!("{path}.{keyword}");
            let named = value.as_object().ok_or_else(|| invalid(&place, "expected an object of schemas"))?;
            found.extend(named.iter().map(|(name, value)| (format!("{place}.{name}"), value)));
        }
    }
    Ok(found)
}

/// The schema with this crate's options for llguidance in place of any that a client sent.
pub(super) fn tidied(schema: &Value) -> Value {
    let mut schema = match schema {
        Value::Object(schema) => schema.clone(),
        other => Map::from_iter([("allOf".to_owned(), json!([other]))]),
    };
    schema.insert("x-guidance".to_owned(), json!({"whitespace_pattern": WHITE_SPACE}));
    Value::Object(schema)
}

/// Tries to compile parts of a schema that did not compile, and puts the smallest failing part's place into the error.
pub(super) fn locate(
    path: &str,
    schema: &Value,
    error: Error,
    failure: &dyn Fn(&Value) -> Option<Error>,
) -> Error {
    let (mut path, mut part, mut error) = (path.to_owned(), schema, error);
    let mut tries = 0;
    'down: loop {
        // `false` compiles nowhere by itself and is right where it stands.
        let parts =
            children(&path, part).unwrap_or_default().into_iter().filter(|(_, child)| child.is_object());
        for (place, child) in parts {
            tries += 1;
            // Enough for every schema that a person writes; a generated one is located as far as this goes.
            if tries > 500 {
                break 'down;
            }
            if let Some(reason) = failure(&with_definitions(child, schema)) {
                (path, part, error) = (place, child, reason);
                continue 'down;
            }
        }
        break;
    }
    match error {
        Error::InvalidGrammar { reason, .. } => Error::InvalidGrammar { path, reason },
        other => other,
    }
}

/// A part of a schema that can be compiled by itself: with the definitions it may refer to.
pub(super) fn with_definitions(part: &Value, root: &Value) -> Value {
    let mut part = part.clone();
    if let Some(part) = part.as_object_mut() {
        for keyword in ["$defs", "definitions"] {
            if let Some(definitions) = root.get(keyword) {
                part.insert(keyword.to_owned(), definitions.clone());
            }
        }
    }
    part
}
