//! `TokenizerConfig`: what tokenizer_config.json adds to the tokenizer: which tokens begin, end and pad a sequence, and the chat template.

use serde::Deserialize;

use crate::error::{Error, Result};

/// The typed fields of tokenizer_config.json; all are optional, as in released checkpoints.
#[derive(Debug, Clone, Default)]
pub struct TokenizerConfig {
    pub(crate) bos_token: Option<String>,
    pub(crate) eos_token: Option<String>,
    pub(crate) pad_token: Option<String>,
    pub(crate) add_bos_token: bool,
    pub(crate) chat_template: Option<String>,
}

/// A token written as a string or as an object with `content`.
#[derive(Deserialize)]
#[serde(untagged)]
enum TokenField {
    Spelling(String),
    Object { content: String },
}

impl TokenField {
    fn spelling(self) -> String {
        match self {
            Self::Spelling(content) | Self::Object { content } => content,
        }
    }
}

/// One template, or several by name, of which `default` is the chat template.
#[derive(Deserialize)]
#[serde(untagged)]
enum TemplateField {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

#[derive(Deserialize)]
struct ConfigFile {
    bos_token: Option<TokenField>,
    eos_token: Option<TokenField>,
    pad_token: Option<TokenField>,
    add_bos_token: Option<bool>,
    chat_template: Option<TemplateField>,
}

const FILE: &str = "tokenizer_config.json";

impl TokenizerConfig {
    /// Parses the bytes of tokenizer_config.json.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the file is not a JSON object or a field has another type.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let file: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(bytes).map_err(|reason| Error::json(FILE, "a JSON object", &reason))?;
        check_fields(&file)?;
        let file: ConfigFile = serde_json::from_value(serde_json::Value::Object(file))
            .map_err(|reason| Error::json(FILE, "the fields of a tokenizer configuration", &reason))?;
        let chat_template = match file.chat_template {
            Some(TemplateField::One(template)) => Some(template),
            Some(TemplateField::Named(templates)) => {
                templates.into_iter().find(|named| named.name == "default").map(|named| named.template)
            }
            None => None,
        };
        Ok(Self {
            bos_token: file.bos_token.map(TokenField::spelling),
            eos_token: file.eos_token.map(TokenField::spelling),
            pad_token: file.pad_token.map(TokenField::spelling),
            add_bos_token: file.add_bos_token.unwrap_or(false),
            chat_template,
        })
    }

    /// Replaces the chat template by the bytes of a file of its own, which newer checkpoints ship beside the configuration.
    pub(crate) fn set_chat_template(&mut self, file: &str, bytes: Vec<u8>) -> Result<()> {
        let template = String::from_utf8(bytes).map_err(|reason| Error::Malformed {
            file: file.to_owned(),
            field: "text".to_owned(),
            expected: "UTF-8",
            found: reason.to_string(),
        })?;
        self.chat_template = Some(template);
        Ok(())
    }

    /// Spelling of the beginning-of-sequence token.
    pub fn bos_token(&self) -> Option<&str> {
        self.bos_token.as_deref()
    }

    /// Spelling of the end-of-sequence token.
    pub fn eos_token(&self) -> Option<&str> {
        self.eos_token.as_deref()
    }

    /// Spelling of the padding token.
    pub fn pad_token(&self) -> Option<&str> {
        self.pad_token.as_deref()
    }

    /// Whether a plain text is encoded with BOS in front.
    pub fn add_bos_token(&self) -> bool {
        self.add_bos_token
    }

    /// The checkpoint's own Jinja chat template.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }
}

/// Names the field whose type is wrong; an untagged enum's own message does not.
fn check_fields(file: &serde_json::Map<String, serde_json::Value>) -> Result<()> {
    let token =
        |value: &serde_json::Value| value.is_null() || value.is_string() || value["content"].is_string();
    let wrong = |field: &str, expected| {
        let found = file.get(field).map(ToString::to_string).unwrap_or_default();
        Err(Error::Malformed { file: FILE.to_owned(), field: field.to_owned(), expected, found })
    };
    for field in ["bos_token", "eos_token", "pad_token"] {
        if !file.get(field).is_none_or(token) {
            return wrong(field, "a string, an object with content, or null");
        }
    }
    if !file.get("add_bos_token").is_none_or(|value| value.is_null() || value.is_boolean()) {
        return wrong("add_bos_token", "true or false");
    }
    let template = |value: &serde_json::Value| match value {
        serde_json::Value::Array(list) => {
            list.iter().all(|t| t["name"].is_string() && t["template"].is_string())
        }
        other => other.is_null() || other.is_string(),
    };
    if !file.get("chat_template").is_none_or(template) {
        return wrong("chat_template", "a string or a list of objects with name and template");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_as_strings_or_objects() {
        let config = TokenizerConfig::from_bytes(
            br#"{"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null, "add_bos_token": true,
                "chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#,
        )
        .unwrap();
        assert_eq!(
            (config.bos_token(), config.eos_token(), config.pad_token()),
            (Some("<s>"), Some("</s>"), None)
        );
        assert!(config.add_bos_token());
        assert_eq!(config.chat_template(), Some("d"));
    }

    #[test]
    fn a_wrong_type_names_its_field() {
        for (json, field) in [
            (r#"{"eos_token": 7}"#, "eos_token"),
            (r#"{"add_bos_token": "yes"}"#, "add_bos_token"),
            (r#"{"chat_template": {"a": 1}}"#, "chat_template"),
        ] {
            let error = TokenizerConfig::from_bytes(json.as_bytes()).unwrap_err();
            assert!(matches!(&error, Error::Malformed { field: found, .. } if found == field), "{error}");
        }
        assert!(TokenizerConfig::from_bytes(b"[1]").is_err());
        assert!(TokenizerConfig::from_bytes(b"{").is_err());
    }
}
