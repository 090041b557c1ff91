//! The events of a streamed response, numbered through.

use serde_json::{Value, json};

use super::{Form, Item, Status};
use crate::answer::{Answer, AnswerEvent, Block, BlockEvent, Blocks};
use crate::error::ApiError;
use crate::sse::{Frames, Renderer};

/// The stream of a response.
pub(super) struct ResponseStream {
    form: Form,
    sequence_number: u64,
    blocks: Blocks,
    /// The item that is open, with its text so far.
    open: Option<(Item, String)>,
    /// The items that are complete.
    done: Vec<Value>,
    status: Status,
}

impl ResponseStream {
    pub(super) fn new(form: Form) -> Self {
        Self {
            form,
            sequence_number: 0,
            blocks: Blocks::default(),
            open: None,
            done: Vec::new(),
            status: Status::InProgress,
        }
    }

    /// Sends an event of a kind, with its number.
    fn send(&mut self, kind: &str, mut data: Value, frames: &mut Frames) {
        data["type"] = kind.into();
        data["sequence_number"] = self.sequence_number.into();
        self.sequence_number += 1;
        frames.named(kind, &data);
    }

    fn block(&mut self, event: BlockEvent, frames: &mut Frames) {
        match event {
            BlockEvent::Open(block) => self.open_item(block, frames),
            BlockEvent::Text(text) => self.add_text(&text, frames),
            BlockEvent::Close => self.close_item(frames),
        }
    }

    fn open_item(&mut self, block: Block, frames: &mut Frames) {
        let item = Item::new(block);
        let output_index = self.done.len();
        let added = json!({"output_index": output_index, "item": item.json("", Status::InProgress)});
        self.send("response.output_item.added", added, frames);
        if !matches!(item.block, Block::Call { .. }) {
            let part = json!({
                "item_id": item.id, "output_index": output_index, "content_index": 0, "part": item.part(""),
            });
            self.send("response.content_part.added", part, frames);
        }
        self.open = Some((item, String::new()));
    }

    fn add_text(&mut self, text: &str, frames: &mut Frames) {
        let output_index = self.done.len();
        let Some((item, whole)) = &mut self.open else { return };
        whole.push_str(text);
        let mut data = json!({"item_id": item.id, "output_index": output_index, "delta": text});
        let kind = match item.block {
            Block::Reasoning => "response.reasoning_text.delta",
            Block::Text => "response.output_text.delta",
            Block::Call { .. } => "response.function_call_arguments.delta",
        };
        if !matches!(item.block, Block::Call { .. }) {
            data["content_index"] = 0.into();
        }
        if item.block == Block::Text {
            data["logprobs"] = json!([]);
        }
        self.send(kind, data, frames);
    }

    fn close_item(&mut self, frames: &mut Frames) {
        let output_index = self.done.len();
        let Some((item, text)) = self.open.take() else { return };
        let place = json!({"item_id": item.id, "output_index": output_index});
        let with = |fields: Value| {
            let mut data = place.clone();
            for (key, value) in fields.as_object().into_iter().flatten() {
                data[key] = value.clone();
            }
            data
        };
        match &item.block {
            Block::Call { name } => {
                let data = with(json!({"name": name, "arguments": text}));
                self.send("response.function_call_arguments.done", data, frames);
            }
            block => {
                let (kind, mut data) = match block {
                    Block::Reasoning => ("response.reasoning_text.done", json!({"text": text})),
                    _ => ("response.output_text.done", json!({"text": text, "logprobs": []})),
                };
                data["content_index"] = 0.into();
                self.send(kind, with(data), frames);
                let part = with(json!({"content_index": 0, "part": item.part(&text)}));
                self.send("response.content_part.done", part, frames);
            }
        }
        let whole = item.json(&text, Status::Completed);
        self.done.push(whole.clone());
        let data = json!({"output_index": output_index, "item": whole});
        self.send("response.output_item.done", data, frames);
    }
}

impl Renderer for ResponseStream {
    fn start(&mut self, frames: &mut Frames) {
        let response = self.form.response(Status::InProgress, Vec::new(), None);
        self.send("response.created", json!({"response": response}), frames);
        self.send("response.in_progress", json!({"response": response}), frames);
    }

    fn event(&mut self, event: AnswerEvent, _: &Answer, frames: &mut Frames) {
        match event {
            AnswerEvent::Delta { delta, .. } => {
                for event in self.blocks.push(delta) {
                    self.block(event, frames);
                }
            }
            AnswerEvent::Finish { finish, .. } => {
                if let Some(event) = self.blocks.close() {
                    self.block(event, frames);
                }
                self.status = Status::of(&finish);
            }
        }
    }

    fn end(&mut self, answer: &Answer, frames: &mut Frames) {
        let output = std::mem::take(&mut self.done);
        let response = self.form.response(self.status, output, Some(answer.usage()));
        let kind = format!("response.{}", self.status.as_str());
        self.send(&kind, json!({"response": response}), frames);
    }

    fn error(&mut self, error: &ApiError, frames: &mut Frames) {
        let output = std::mem::take(&mut self.done);
        let mut response = self.form.response(Status::Failed, output, None);
        response["error"] =
            json!({"code": error.code().unwrap_or("server_error"), "message": error.to_string()});
        self.send("response.failed", json!({"response": response}), frames);
    }
}
