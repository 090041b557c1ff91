//! [`Blocks`]: the pieces of an answer as blocks that open and close, which is how Anthropic's API and OpenAI's
//! Responses API tell it.

use text::OutputDelta;

/// What a block holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Block {
    /// The reasoning.
    Reasoning,
    /// The answer.
    Text,
    /// A call of this tool; the block's text is its arguments.
    Call { name: String },
}

/// A step of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BlockEvent {
    Open(Block),
    /// More of the open block.
    Text(String),
    /// The open block is complete.
    Close,
}

/// Groups pieces into blocks.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    open: Option<Block>,
}

impl Blocks {
    /// Takes a piece.
    pub(crate) fn push(&mut self, delta: OutputDelta) -> Vec<BlockEvent> {
        let (block, text) = match delta {
            OutputDelta::Reasoning(text) => (Some(Block::Reasoning), text),
            OutputDelta::Content(text) => (Some(Block::Text), text),
            OutputDelta::ToolCall { name, .. } => (Some(Block::Call { name }), String::new()),
            OutputDelta::Arguments { text, .. } => (None, text),
            _ => return Vec::new(),
        };
        let mut events = Vec::new();
        // Two calls in a row are two blocks, even of the same tool.
        let is_new = |block: &Block| self.open.as_ref() != Some(block) || matches!(block, Block::Call { .. });
        if let Some(block) = block.filter(is_new) {
            events.extend(self.close());
            self.open = Some(block.clone());
            events.push(BlockEvent::Open(block));
        }
        if !text.is_empty() {
            events.push(BlockEvent::Text(text));
        }
        events
    }

    /// Closes the open block, if there is one.
    pub(crate) fn close(&mut self) -> Option<BlockEvent> {
        self.open.take().map(|_| BlockEvent::Close)
    }

    /// The block that is open.
    pub(crate) fn open(&self) -> Option<&Block> {
        self.open.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_kind_share_a_block_and_calls_never_do() {
        let call = |index| OutputDelta::ToolCall { index, name: "f".into() };
        let arguments = |index| OutputDelta::Arguments { index, text: "{}".into() };
        let mut blocks = Blocks::default();
        let deltas = [
            OutputDelta::Reasoning("a".into()),
            OutputDelta::Reasoning("b".into()),
            OutputDelta::Content("c".into()),
            call(0),
            arguments(0),
            call(1),
            arguments(1),
        ];
        let mut events: Vec<BlockEvent> = deltas.into_iter().flat_map(|delta| blocks.push(delta)).collect();
        events.extend(blocks.close());
        assert_eq!(blocks.close(), None);
        let text = |text: &str| BlockEvent::Text(text.into());
        let open_call = || BlockEvent::Open(Block::Call { name: "f".into() });
        let expected = [
            BlockEvent::Open(Block::Reasoning),
            text("a"),
            text("b"),
            BlockEvent::Close,
            BlockEvent::Open(Block::Text),
            text("c"),
            BlockEvent::Close,
            open_call(),
            text("{}"),
            BlockEvent::Close,
            open_call(),
            text("{}"),
            BlockEvent::Close,
        ];
        assert_eq!(events, expected);
    }
}
