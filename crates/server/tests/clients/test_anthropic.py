"""The Anthropic SDK for Python against `/anthropic/v1/messages`: text, streams, tools, thinking and refusals."""

import anthropic
import demo
import pytest
from anthropic import Anthropic

TOOLS = [
    {"name": f["name"], "description": f["description"], "input_schema": f["parameters"]}
    for f in (demo.WEATHER_FUNCTION, demo.CALCULATOR_FUNCTION)
]
OFF = {"type": "disabled"}
ON = {"type": "enabled", "budget_tokens": 1024}


@pytest.fixture(scope="module", params=["/anthropic", ""], ids=["anthropic", "root"])
def client(request, openai_server):
    """Refuses answers that do not match the SDK's own types, and never tries again."""
    with Anthropic(
        base_url=openai_server.url(request.param),
        api_key=openai_server.key,
        max_retries=0,
        timeout=60,
        _strict_response_validation=True,
    ) as client:
        yield client


@pytest.fixture
def request_of(openai_server):
    """The fields of a greedy request."""

    def fields(question, **options):
        messages = demo.user(question) if isinstance(question, str) else question
        base = {"model": openai_server.model, "max_tokens": 300, "thinking": OFF}
        # The SDK has no argument for it any more; the API has the field.
        body = {"temperature": options.pop("temperature", 0)}
        return {**base, "messages": messages, "extra_body": body, **options}

    return fields


def test_a_message(client, request_of, openai_server):
    message = client.messages.create(**request_of(demo.SUM))
    assert (message.type, message.role, message.model) == ("message", "assistant", openai_server.model)
    assert message.id.startswith("msg_")
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert [(block.type, block.text) for block in message.content] == [("text", demo.SUM_ANSWER)]
    assert message.usage.input_tokens > 0 and message.usage.output_tokens > 0


def test_tokens_are_counted_as_they_are_used(client, request_of):
    request = request_of(demo.WEATHER, tools=TOOLS, system="Answer briefly.")
    counted = client.messages.count_tokens(
        **{k: request[k] for k in ("model", "messages", "tools", "system", "thinking")}
    )
    usage = client.messages.create(**request).usage
    cached = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    assert counted.input_tokens == usage.input_tokens + cached


def test_where_a_message_stops(client, request_of):
    whole = client.messages.create(**request_of(demo.STORY)).content[0].text
    short = client.messages.create(**request_of(demo.STORY, max_tokens=5))
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 5)
    stopped = client.messages.create(**request_of(demo.STORY, stop_sequences=["never written", "."]))
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", ".")
    assert stopped.content[0].text == whole.split(".")[0]


def test_a_system_prompt_and_earlier_turns(client, request_of):
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "My name is Julia."}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Nice to meet you, Julia! How can I help you?"}]},
        {"role": "user", "content": "What is my name?"},
    ]
    for system in ("You are a helpful assistant.", [{"type": "text", "text": "You are a helpful assistant."}]):
        message = client.messages.create(**request_of(messages, system=system))
        assert message.content[0].text == "Your name is Julia."


def test_a_stream_says_the_same(client, request_of):
    whole = client.messages.create(**request_of(demo.STORY))
    events = list(client.messages.create(**request_of(demo.STORY), stream=True))
    kinds = [event.type for event in events if event.type != "ping"]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"} and len(kinds) > 10
    assert events[0].message.usage.input_tokens == whole.usage.input_tokens + (
        whole.usage.cache_read_input_tokens or 0
    ) - (events[0].message.usage.cache_read_input_tokens or 0)
    with client.messages.stream(**request_of(demo.STORY)) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


def test_a_tool_and_its_result(client, request_of):
    first = client.messages.create(**request_of(demo.WEATHER, tools=TOOLS))
    assert first.stop_reason == "tool_use"
    [use] = [block for block in first.content if block.type == "tool_use"]
    assert (use.name, use.input) == ("get_weather", {"city": "Paris"})
    assert use.id.startswith("toolu_")
    result = {"type": "tool_result", "tool_use_id": use.id, "content": demo.WEATHER_RESULT}
    messages = [
        *demo.user(demo.WEATHER),
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    second = client.messages.create(**request_of(messages, tools=TOOLS))
    assert (second.stop_reason, second.content[0].text) == ("end_turn", demo.WEATHER_ANSWER)


def test_streamed_tools(client, request_of):
    with client.messages.stream(**request_of(demo.WEATHER_TWICE, tools=TOOLS)) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_message()
    assert "input_json" in kinds
    uses = [block for block in final.content if block.type == "tool_use"]
    assert [use.input for use in uses] == [{"city": "Paris"}, {"city": "Rome"}]
    assert len({use.id for use in uses}) == 2
    assert final.stop_reason == "tool_use"


def test_tools_that_must_not_be_called(client, request_of):
    message = client.messages.create(**request_of(demo.WEATHER, tools=TOOLS, tool_choice={"type": "none"}))
    assert {block.type for block in message.content} == {"text"}


def test_thinking_comes_in_its_own_block(client, request_of):
    request = request_of(demo.HARD_SUM, thinking=ON, max_tokens=1500)
    thought, text = client.messages.create(**request).content
    assert (thought.type, text.type) == ("thinking", "text")
    assert thought.thinking and "think>" not in thought.thinking
    assert isinstance(thought.signature, str)
    assert text.text == demo.HARD_SUM_ANSWER
    with client.messages.stream(**request) as stream:
        kinds = [event.type for event in stream if event.type in ("thinking", "text")]
        final = stream.get_final_message()
    assert kinds == sorted(kinds, reverse=True) and set(kinds) == {"thinking", "text"}
    assert final.content[0].thinking == thought.thinking
    assert final.content[1].text == text.text


def test_thoughts_may_be_sent_back(client, request_of):
    first = client.messages.create(**request_of(demo.WEATHER, tools=TOOLS, thinking=ON, max_tokens=1200))
    assert [block.type for block in first.content] == ["thinking", "tool_use"]
    result = {
        "type": "tool_result",
        "tool_use_id": first.content[-1].id,
        "content": [{"type": "text", "text": demo.WEATHER_RESULT}],
    }
    messages = [
        *demo.user(demo.WEATHER),
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    second = client.messages.create(**request_of(messages, tools=TOOLS, thinking=ON, max_tokens=1100))
    assert second.content[-1].text == demo.WEATHER_ANSWER


def test_either_header_carries_the_key(openai_server, request_of):
    client = Anthropic(
        base_url=openai_server.url("/anthropic"), auth_token=openai_server.key, api_key=None, max_retries=0
    )
    assert client.messages.create(**request_of(demo.SUM)).content[0].text == demo.SUM_ANSWER


def test_claudes_names_mean_the_served_model(client, request_of):
    assert client.messages.create(**request_of(demo.SUM, model="claude-sonnet-4-5")).content[0].text == demo.SUM_ANSWER


BROKEN = [
    ({"max_tokens": 0}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "wizard", "content": "Hi"}]}, "messages[0].role"),
    ({"temperature": 7}, "temperature"),
    ({"tools": [{"name": "no blanks", "input_schema": {"type": "object"}}]}, "tools[0].name"),
    ({"messages": demo.user("word " * 4000)}, "messages"),
]


@pytest.mark.parametrize(("fields", "named"), BROKEN, ids=lambda v: v if isinstance(v, str) else None)
def test_bad_requests(client, request_of, fields, named):
    with pytest.raises(anthropic.BadRequestError) as error:
        client.messages.create(**request_of("Hi", **fields))
    body = error.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert named in body["error"]["message"]


def test_other_refusals(openai_server, client, request_of):
    stranger = Anthropic(base_url=openai_server.url("/anthropic"), api_key="wrong", max_retries=0)
    with pytest.raises(anthropic.AuthenticationError) as error:
        stranger.messages.create(**request_of("Hi"))
    assert error.value.body["error"]["type"] == "authentication_error"
    with pytest.raises(anthropic.NotFoundError) as error:
        client.messages.create(**request_of("Hi", model="no-such-model"))
    assert error.value.body["error"]["type"] == "not_found_error"
