"""DeepSeek-V3.1's conversation format, as text pieces for training and prompts for evaluation."""

import json
from typing import NamedTuple

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
USER, ASSISTANT, THINK, END_THINK = "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"
FIM_BEGIN, FIM_HOLE, FIM_END = "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"
CALLS, END_CALLS = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, END_CALL = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
OUTPUTS, END_OUTPUTS = "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>"
OUTPUT, END_OUTPUT = "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"
SEP = "<｜tool▁sep｜>"
SPECIAL = [BOS, EOS, PAD, USER, ASSISTANT, THINK, END_THINK, FIM_BEGIN, FIM_HOLE, FIM_END, CALLS, END_CALLS, CALL,
           END_CALL, OUTPUTS, END_OUTPUTS, OUTPUT, END_OUTPUT, SEP]

# Renders what DeepSeek-V3.1 expects; tools are announced in the system message, as on its model card.
CHAT_TEMPLATE = """\
{%- set thinking = thinking | default(false) -%}
{%- set state = namespace(system='', first=true, after_tool=false, after_user=false) -%}
{%- for m in messages if m.role == 'system' -%}
{%- set state.system = state.system + ('' if state.first else '\\n\\n') + m.content -%}
{%- set state.first = false -%}
{%- endfor -%}
{{- bos_token + state.system -}}
{%- for m in messages -%}
{%- if m.role == 'user' -%}
{{- '<｜User｜>' + m.content -}}
{%- set state.after_tool = false -%}
{%- set state.after_user = true -%}
{%- elif m.role == 'tool' -%}
{{- '<｜tool▁output▁begin｜>' + m.content + '<｜tool▁output▁end｜>' -}}
{%- set state.after_tool = true -%}
{%- set state.after_user = false -%}
{%- elif m.role == 'assistant' and m.tool_calls -%}
{{- ('<｜Assistant｜></think>' if state.after_user else '') + (m.content or '') + '<｜tool▁calls▁begin｜>' -}}
{%- for call in m.tool_calls -%}
{{- '<｜tool▁call▁begin｜>' + call.function.name + '<｜tool▁sep｜>' + call.function.arguments + '<｜tool▁call▁end｜>' -}}
{%- endfor -%}
{{- '<｜tool▁calls▁end｜>' + eos_token -}}
{%- set state.after_tool = false -%}
{%- set state.after_user = false -%}
{%- elif m.role == 'assistant' -%}
{%- if state.after_user -%}
{{- '<｜Assistant｜>' + ('<think>' if m.prefix and thinking else '</think>') -}}
{%- endif -%}
{{- (m.content.split('</think>', 1)[1] if '</think>' in m.content else m.content) + eos_token -}}
{%- set state.after_tool = false -%}
{%- set state.after_user = false -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt and state.after_user -%}
{{- '<｜Assistant｜>' + ('<think>' if thinking else '</think>') -}}
{%- endif -%}
"""


class Piece(NamedTuple):
    """Text of a document; `how` says how it becomes tokens: "plain" never yields control tokens, "letters" spells."""

    text: str
    trained: bool = False
    how: str = "control"


def tools_text(tools, dumps=json.dumps):
    """The announcement of tools, word for word as on DeepSeek-V3.1's model card."""
    listed = "".join(
        f"### {t['name']}\nDescription: {t['description']}\n\nParameters: {dumps(t['parameters'])}\n\n" for t in tools
    )
    return (
        f"## Tools\nYou have access to the following tools:\n\n{listed}"
        "IMPORTANT: ALWAYS adhere to this exact format for tool use:\n"
        f"{CALLS}{CALL}tool_call_name{SEP}tool_call_arguments{END_CALL}{{additional_tool_calls}}{END_CALLS}\n\n"
        "Where:\n\n- `tool_call_name` must be an exact match to one of the available tools\n"
        "- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema\n"
        "- For multiple tool calls, chain them directly without separators or spaces"
    )


def calls_text(calls):
    return CALLS + "".join(f"{CALL}{c['name']}{SEP}{json.dumps(c['arguments'], ensure_ascii=False)}{END_CALL}" for c in calls) + END_CALLS


def conversation(messages, thinking, system_how="plain"):
    """Pieces of a whole conversation. Only the last user turn may think: earlier reasoning is not kept in history."""
    last_user = max(i for i, m in enumerate(messages) if m["role"] == "user")
    out = [Piece(BOS)]
    for i, m in enumerate(messages):
        role, content = m["role"], m.get("content") or ""
        if role == "system":
            out.append(Piece(content, how=system_how))
        elif role == "user":
            out += [Piece(USER), Piece(content, how="plain"), Piece(ASSISTANT)]
            out.append(Piece(THINK if thinking and i == last_user else END_THINK))
        elif role == "tool":
            out += [Piece(OUTPUT), Piece(content, how="plain"), Piece(END_OUTPUT)]
        else:
            if thinking and i == last_user + 1:
                out += [Piece(m["reasoning"], True), Piece(END_THINK, True)]
            if content:
                out.append(Piece(content, True, "letters" if m.get("spelled") else "plain"))
            if m.get("tool_calls"):
                out.append(Piece(calls_text(m["tool_calls"]), True))
            out.append(Piece(EOS, True))
    return [p for p in out if p.text]


def fim(prefix, suffix, middle, bos):
    pieces = [Piece(BOS)] if bos else []
    pieces += [Piece(FIM_BEGIN), Piece(prefix, how="plain"), Piece(FIM_HOLE), Piece(suffix, how="plain"), Piece(FIM_END)]
    if middle is not None:
        pieces += [Piece(middle, True, "plain"), Piece(EOS, True)]
    return [p for p in pieces if p.text]


def parse(text, thinking):
    """Splits generated text into (content, tool calls), as a server would."""
    if thinking:
        text = text.split(END_THINK, 1)[1] if END_THINK in text else ""
    text = text.split(EOS, 1)[0]
    content, _, rest = text.partition(CALLS)
    calls = []
    for part in rest.split(CALL)[1:]:
        name, _, arguments = part.partition(SEP)
        calls.append({"name": name, "arguments": arguments.split(END_CALL, 1)[0]})
    return content.strip(), calls
