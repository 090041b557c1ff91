//! Bodies of every route: whatever comes is answered or refused in the API's own form, and never with a 500.
//!
//! The server is the real one, over a socket and the demo model. Its engine drains from the start, so that a request
//! that passes every check (and is encoded, and has its grammar compiled) is refused at the engine's door with a 503.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::sync::mpsc;
use std::thread;

use arbitrary::{Result, Unstructured};
use cachalot::serve::{Dialect, Server, ServerOptions, ServiceOptions};
use cachalot::{LanguageModel, LoadOptions, ModelSource};
use serde_json::{Value, json};

use crate::Target;
use crate::words::Words;

/// The bodies of every POST route, in both dialects.
pub struct RequestTarget {
    /// One server per dialect; the first one is OpenAI's.
    servers: [String; 2],
    paths: Vec<String>,
    words: Words,
    agent: ureq::Agent,
}

impl Target for RequestTarget {
    fn new() -> Self {
        let load = LoadOptions { max_sequences: 1, ..LoadOptions::default() };
        let model = LanguageModel::load(ModelSource::Embedded, load).unwrap();
        let servers = [Dialect::OpenAi, Dialect::DeepSeek].map(|dialect| serve(&model, dialect));
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        // The server's own document says which paths, fields and values there are.
        let mut response = agent.get(format!("{}/openapi.json", servers[0])).call().unwrap();
        let document: Value = response.body_mut().read_json().unwrap();
        let takes_posts = |(path, methods): (&String, &Value)| methods.get("post").map(|_| path.clone());
        let paths = document["paths"].as_object().unwrap().iter().filter_map(takes_posts).collect();
        let mut words = Vec::new();
        collect(&document["components"]["schemas"], &mut words);
        Self { servers, paths, words: Words::new(words), agent }
    }

    fn run(&self, bytes: &mut Unstructured<'_>) -> Result<()> {
        let dialect = bytes.choose_index(self.servers.len())?;
        let path = bytes.choose(&self.paths)?;
        let mut value = example(path);
        let is_raw = bytes.ratio(1, 16)?;
        let body = match is_raw {
            true => bytes.bytes(bytes.len())?.to_vec(),
            false => {
                self.words.edit(&mut value, bytes)?;
                value.to_string().into_bytes()
            }
        };
        let (status, answer) = self.post(&format!("{}{path}", self.servers[dialect]), &body);
        let context = || format!("{path} {}: {status} {answer}", String::from_utf8_lossy(&body));
        let error = &answer["error"];
        match status {
            200 => assert!(answer.is_object() && error.is_null(), "{}", context()),
            // Nothing else runs here: a queue that is full is one of grammars that take long.
            400 | 404 | 413 | 429 | 503 => {
                assert!(error["message"].as_str().is_some_and(|words| !words.is_empty()), "{}", context());
                assert!(error["type"].is_string(), "{}", context());
            }
            _ => panic!("{}", context()),
        }
        let names_fields = dialect == 0 && !path.contains("/messages");
        if status == 400 && names_fields && value.is_object() && !is_raw {
            assert!(error["param"].is_string(), "{}", context());
        }
        Ok(())
    }
}

impl RequestTarget {
    /// Status and body of the answer. A fuzzer's alarm clock interrupts system calls, and what was interrupted is asked
    /// again.
    fn post(&self, url: &str, body: &[u8]) -> (u16, Value) {
        let ask = || {
            let mut response = self.agent.post(url).send(body)?;
            Ok((response.status().as_u16(), response.body_mut().read_json()?))
        };
        loop {
            match ask() {
                Err(ureq::Error::Io(error)) if error.kind() == ErrorKind::Interrupted => {}
                answer => return answer.unwrap(),
            }
        }
    }
}

fn serve(model: &LanguageModel, dialect: Dialect) -> String {
    let served = model.served("demo", &ServiceOptions::default()).unwrap();
    served.service.drain();
    let options =
        ServerOptions { addr: (Ipv4Addr::LOCALHOST, 0).into(), dialect, ..ServerOptions::default() };
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Server::bind(served, options).await.unwrap();
            tell.send(server.local_addr()).unwrap();
            server.run(std::future::pending()).await;
        });
    });
    format!("http://{}", told.recv().unwrap())
}

/// All names and short values of the schemas.
fn collect(schema: &Value, words: &mut Vec<String>) {
    match schema {
        Value::String(text) if text.len() < 40 && !words.contains(text) => words.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| collect(item, words)),
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            collect(&name.as_str().into(), words);
            collect(value, words);
        }),
        _ => {}
    }
}

/// A request that passes, with many fields for [`Words::edit`] to change.
fn example(path: &str) -> Value {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false});
    let function = json!({"name": "f", "description": "d", "parameters": schema, "strict": false});
    let tool = json!({"type": "function", "function": function});
    let call = json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}});
    let format = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema}});
    match path.rsplit('/').next() {
        _ if path.ends_with("/chat/completions") => json!({"model": "demo", "messages": [
            {"role": "system", "content": "json"}, {"role": "user", "content": [{"type": "text", "text": "u"}]},
            {"role": "assistant", "content": null, "reasoning_content": "r", "tool_calls": [call]},
            {"role": "tool", "content": "t", "tool_call_id": "1"}, {"role": "user", "content": "u"},
        ], "tools": [tool], "tool_choice": "auto", "temperature": 1, "top_p": 0.9, "max_tokens": 5, "stop": ["x"], "logprobs": true}),
        Some("completions") => {
            json!({"model": "demo", "prompt": "p", "suffix": "s", "max_tokens": 5, "response_format": format})
        }
        Some("messages" | "count_tokens") => {
            json!({"model": "demo", "max_tokens": 5, "system": "s", "messages": [
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "t"}, {"type": "tool_use", "id": "1", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "t"}, {"type": "text", "text": "u"}]},
        ], "tools": [{"name": "f", "input_schema": schema}], "tool_choice": {"type": "auto"}})
        }
        Some("responses") => json!({"model": "demo", "instructions": "i", "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "u"}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "r"}]},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "o"},
        ], "text": {"format": {"type": "json_schema", "name": "n", "schema": schema}}, "reasoning": {"effort": "high"}}),
        Some("embeddings") => json!({"model": "demo", "input": ["a", "b"], "encoding_format": "base64"}),
        Some("detokenize") => json!({"model": "demo", "tokens": [1, 2, 3]}),
        _ => json!({"model": "demo", "prompt": "p", "add_special_tokens": true, "return_token_strs": true}),
    }
}
