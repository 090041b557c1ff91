//! What a tool with `strict` promises of its schema: every object is closed, and every property required.

use serde_json::Value;

use crate::error::{ApiError, ApiResult};

/// Checks a schema and all within it. Nesting is bounded by the parser of the body.
pub(super) fn check(path: &str, schema: &Value) -> ApiResult<()> {
    if let Some(properties) = schema["properties"].as_object() {
        if schema["additionalProperties"] != false {
            let expected = "false in a strict tool";
            let field = format!("{path}.additionalProperties");
            return Err(ApiError::value(field, expected, &schema["additionalProperties"]));
        }
        let required = |name: &String| {
            schema["required"].as_array().is_some_and(|required| required.iter().any(|value| value == name))
        };
        if let Some(name) = properties.keys().find(|name| !required(name)) {
            let expected = "every property in a strict tool";
            return Err(ApiError::value(format!("{path}.required"), expected, format!("no {name:?}")));
        }
    }
    for key in ["properties", "$defs", "definitions"] {
        for (name, part) in schema[key].as_object().into_iter().flatten() {
            check(&format!("{path}.{key}.{name}"), part)?;
        }
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        for (index, part) in schema[key].as_array().into_iter().flatten().enumerate() {
            check(&format!("{path}.{key}[{index}]"), part)?;
        }
    }
    match &schema["items"] {
        Value::Null => Ok(()),
        items => check(&format!("{path}.items"), items),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_open_object_is_found_wherever_it_is() {
        let closed = json!({"type": "object", "properties": {"a": {"type": "string"}},
                            "required": ["a"], "additionalProperties": false});
        let with = |part: Value| json!({"type": "object", "properties": {"a": part}, "required": ["a"], "additionalProperties": false});
        check("p", &with(json!({"type": "array", "items": closed}))).unwrap();
        let open = json!({"type": "object", "properties": {"b": {}}, "required": ["b"]});
        let loose = json!({"type": "object", "properties": {"b": {}}, "additionalProperties": false});
        for (schema, field) in [
            (open.clone(), "p.additionalProperties"),
            (loose.clone(), "p.required"),
            (with(open.clone()), "p.properties.a.additionalProperties"),
            (with(json!({"type": "array", "items": loose})), "p.properties.a.items.required"),
            (with(json!({"anyOf": [{}, open]})), "p.properties.a.anyOf[1].additionalProperties"),
        ] {
            assert_eq!(check("p", &schema).unwrap_err().param(), Some(field));
        }
    }
}
