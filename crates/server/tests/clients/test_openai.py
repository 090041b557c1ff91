"""The OpenAI SDK for Python against `/v1/chat/completions`: text, streams, log-probabilities, tools and reasoning."""

import json
import time

import demo
import pytest
from openai import OpenAI


@pytest.fixture(scope="module")
def client(openai_server):
    """Refuses answers that do not match the SDK's own types, and never tries again."""
    with OpenAI(
        base_url=openai_server.url("/v1"),
        api_key=openai_server.key,
        max_retries=0,
        timeout=60,
        _strict_response_validation=True,
    ) as client:
        yield client


@pytest.fixture
def chat(client, openai_server):
    """`chat.completions.create` of the demo model, greedy and without reasoning unless told otherwise."""

    def create(question, **options):
        messages = demo.user(question) if isinstance(question, str) else question
        options = {"temperature": 0, "extra_body": demo.DIRECT, **options}
        return client.chat.completions.create(model=openai_server.model, messages=messages, **options)

    return create


def joined(chunks, field="content"):
    """What the deltas of the first choice add up to."""
    deltas = (c.choices[0].delta for c in chunks if c.choices)
    return "".join(getattr(delta, field, None) or "" for delta in deltas)


def test_an_answer(chat, openai_server):
    before = int(time.time())
    answer = chat(demo.SUM)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert before <= answer.created <= int(time.time())
    assert answer.model == openai_server.model
    assert isinstance(answer.system_fingerprint, str)
    [choice] = answer.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    message = choice.message
    assert (message.role, message.content) == ("assistant", demo.SUM_ANSWER)
    assert (message.refusal, message.tool_calls, message.function_call) == (None, None, None)
    assert not getattr(message, "reasoning_content", None)


def test_ids_differ(chat):
    assert chat(demo.SUM).id != chat(demo.SUM).id


def test_usage_adds_up(chat):
    chat(demo.HARD_SUM)
    usage = chat(demo.HARD_SUM).usage
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_cache_hit_tokens + usage.prompt_cache_miss_tokens == usage.prompt_tokens
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_cache_hit_tokens
    assert usage.completion_tokens_details.reasoning_tokens == 0


def test_a_repeated_prefix_is_reported_as_cached(chat):
    system = {"role": "system", "content": "You are a helpful assistant. Today is Sunday. " * 12}
    messages = [system, *demo.user(demo.SUM)]
    first, second = chat(messages, max_tokens=4).usage, chat(messages, max_tokens=4).usage
    assert second.prompt_tokens == first.prompt_tokens
    assert second.prompt_tokens_details.cached_tokens > second.prompt_tokens // 2


@pytest.mark.parametrize("question", [demo.SUM, demo.STORY, demo.PLUMBER])
def test_a_stream_says_the_same(chat, openai_server, question):
    whole = chat(question)
    chunks = list(chat(question, stream=True))
    assert joined(chunks) == whole.choices[0].message.content
    assert {c.object for c in chunks} == {"chat.completion.chunk"}
    assert {c.model for c in chunks} == {openai_server.model}
    assert len({c.id for c in chunks}) == 1
    assert len({c.created for c in chunks}) == 1
    assert [c.choices[0].delta.role for c in chunks if c.choices[0].delta.role] == ["assistant"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert all(c.usage is None for c in chunks)


def test_a_stream_is_not_held_back(chat):
    pieces = [c.choices[0].delta.content for c in chat(demo.STORY, stream=True) if c.choices[0].delta.content]
    assert len(pieces) > 10


def test_a_stream_ends_with_its_usage_if_asked(chat):
    whole = chat(demo.SUM)
    *chunks, last = chat(demo.SUM, stream=True, stream_options={"include_usage": True})
    assert all(c.usage is None and len(c.choices) == 1 for c in chunks)
    assert last.choices == []
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert last.usage.total_tokens == whole.usage.total_tokens


def test_the_sdks_own_assembly_of_a_stream(client, openai_server):
    request = {
        "model": openai_server.model,
        "messages": demo.user(demo.SUM),
        "temperature": 0,
        "extra_body": demo.DIRECT,
    }
    with client.chat.completions.stream(**request) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "content.delta" in events and events.count("content.done") == 1
    assert final.choices[0].message.content == demo.SUM_ANSWER


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_the_length_limit(chat, field):
    answer = chat(demo.STORY, **{field: 5})
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 5
    assert chat(demo.STORY).choices[0].message.content.startswith(answer.choices[0].message.content)


@pytest.mark.parametrize("stop", [".", ["never written", "."]])
def test_a_stop_string_is_cut_off(chat, stop):
    whole = chat(demo.STORY).choices[0].message.content
    answer = chat(demo.STORY, stop=stop).choices[0]
    assert (answer.finish_reason, answer.message.content) == ("stop", whole.split(".")[0])
    assert joined(chat(demo.STORY, stop=stop, stream=True)) == answer.message.content


def test_several_choices(chat):
    answer = chat(demo.SUM, n=3)
    assert [c.index for c in answer.choices] == [0, 1, 2]
    assert [c.message.content for c in answer.choices] == [demo.SUM_ANSWER] * 3
    texts = {0: "", 1: ""}
    for chunk in chat(demo.SUM, n=2, stream=True):
        [choice] = chunk.choices
        texts[choice.index] += choice.delta.content or ""
    assert texts == {0: demo.SUM_ANSWER, 1: demo.SUM_ANSWER}


def test_a_seed_repeats_itself(chat):
    def told(seed):
        return chat(demo.STORY, temperature=1.5, seed=seed, max_tokens=60).choices[0].message.content

    assert told(7) == told(7)
    assert len({told(seed) for seed in range(4)}) > 1


def test_log_probabilities(chat):
    answer = chat(demo.SUM, logprobs=True, top_logprobs=5).choices[0]
    tokens = answer.logprobs.content
    assert "".join(t.token for t in tokens) == answer.message.content
    assert bytes(b for t in tokens for b in t.bytes).decode() == answer.message.content
    for token in tokens:
        assert len(token.top_logprobs) == 5
        assert token.logprob <= 0
        likely = [t.logprob for t in token.top_logprobs]
        assert likely == sorted(likely, reverse=True)
        assert (token.top_logprobs[0].token, token.top_logprobs[0].logprob) == (token.token, token.logprob)
    streamed = [
        t
        for chunk in chat(demo.SUM, logprobs=True, top_logprobs=5, stream=True)
        if chunk.choices[0].logprobs
        for t in chunk.choices[0].logprobs.content or []
    ]
    assert [t.token for t in streamed] == [t.token for t in tokens]
    assert [t.logprob for t in streamed] == pytest.approx([t.logprob for t in tokens], abs=1e-3)


def test_log_probabilities_without_alternatives(chat):
    tokens = chat(demo.SUM, logprobs=True).choices[0].logprobs.content
    assert tokens and all(t.top_logprobs == [] for t in tokens)


def test_a_turn_remembers_the_one_before(chat):
    messages = demo.user("My name is Julia.")
    messages.append(chat(messages).choices[0].message)
    messages += demo.user("What is my name?")
    assert chat(messages).choices[0].message.content == "Your name is Julia."


def test_content_in_parts(chat):
    parts = [{"role": "user", "content": [{"type": "text", "text": demo.SUM}]}]
    assert chat(parts).choices[0].message.content == demo.SUM_ANSWER


def test_a_tool_call_and_its_answer(chat):
    messages = demo.user(demo.WEATHER)
    first = chat(messages, tools=demo.TOOLS).choices[0]
    assert first.finish_reason == "tool_calls"
    assert not first.message.content
    [call] = first.message.tool_calls
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert call.id.startswith("call_")
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    messages += [first.message, {"role": "tool", "tool_call_id": call.id, "content": demo.WEATHER_RESULT}]
    second = chat(messages, tools=demo.TOOLS).choices[0]
    assert (second.finish_reason, second.message.content) == ("stop", demo.WEATHER_ANSWER)
    assert second.message.tool_calls is None


def test_two_calls_at_once(chat):
    calls = chat(demo.WEATHER_TWICE, tools=demo.TOOLS).choices[0].message.tool_calls
    assert [json.loads(c.function.arguments) for c in calls] == [{"city": "Paris"}, {"city": "Rome"}]
    assert len({c.id for c in calls}) == 2


def test_streamed_calls(chat):
    whole = chat(demo.WEATHER_TWICE, tools=demo.TOOLS).choices[0].message.tool_calls
    chunks = list(chat(demo.WEATHER_TWICE, tools=demo.TOOLS, stream=True))
    deltas = [d for c in chunks for d in c.choices[0].delta.tool_calls or []]
    for index, call in enumerate(whole):
        first, *later = [d for d in deltas if d.index == index]
        assert first.id.startswith("call_") and (first.type, first.function.name) == ("function", call.function.name)
        assert all(d.id is None and d.function.name is None for d in later)
        assert "".join(d.function.arguments or "" for d in (first, *later)) == call.function.arguments
    assert [d.index for d in deltas] == sorted(d.index for d in deltas)
    assert len({d.id for d in deltas if d.id}) == len(whole)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert joined(chunks) == ""


def test_tool_choice_none(chat):
    choice = chat(demo.WEATHER, tools=demo.TOOLS, tool_choice="none").choices[0]
    assert (choice.message.tool_calls, choice.finish_reason) == (None, "stop")


def test_tools_do_not_stand_in_the_way_of_an_answer(chat):
    choice = chat(demo.CAPITAL, tools=demo.TOOLS).choices[0]
    assert (choice.message.tool_calls, choice.finish_reason) == (None, "stop")
    assert choice.message.content == demo.CAPITAL_ANSWER


def test_the_old_form_functions(chat):
    messages = demo.user(demo.WEATHER)
    functions = [demo.WEATHER_FUNCTION, demo.CALCULATOR_FUNCTION]
    first = chat(messages, functions=functions).choices[0]
    assert first.finish_reason == "function_call"
    assert first.message.tool_calls is None
    assert first.message.function_call.name == "get_weather"
    assert json.loads(first.message.function_call.arguments) == {"city": "Paris"}
    messages += [first.message, {"role": "function", "name": "get_weather", "content": demo.WEATHER_RESULT}]
    second = chat(messages, functions=functions).choices[0]
    assert (second.finish_reason, second.message.content) == ("stop", demo.WEATHER_ANSWER)


def test_reasoning_has_its_own_field(chat):
    answer = chat(demo.HARD_SUM, extra_body=demo.THINKING)
    message = answer.choices[0].message
    assert message.content == demo.HARD_SUM_ANSWER
    assert message.reasoning_content and "think>" not in message.reasoning_content
    details = answer.usage.completion_tokens_details
    assert 0 < details.reasoning_tokens < answer.usage.completion_tokens
    chunks = list(chat(demo.HARD_SUM, extra_body=demo.THINKING, stream=True))
    assert joined(chunks) == message.content
    assert joined(chunks, "reasoning_content") == message.reasoning_content
    content_from = next(i for i, c in enumerate(chunks) if c.choices[0].delta.content)
    assert not any(getattr(c.choices[0].delta, "reasoning_content", None) for c in chunks[content_from:])


def test_effort_switches_reasoning(chat):
    on = chat(demo.HARD_SUM, reasoning_effort="high", extra_body=None).choices[0].message
    off = chat(demo.HARD_SUM, reasoning_effort="none", extra_body=None).choices[0].message
    assert on.reasoning_content
    assert not getattr(off, "reasoning_content", None)


def test_a_tool_call_after_reasoning(chat):
    messages = demo.user(demo.WEATHER)
    first = chat(messages, tools=demo.TOOLS, extra_body=demo.THINKING).choices[0]
    assert first.message.reasoning_content
    assert first.message.tool_calls[0].function.name == "get_weather"
    tool = {"role": "tool", "tool_call_id": first.message.tool_calls[0].id, "content": demo.WEATHER_RESULT}
    second = chat([*messages, first.message, tool], tools=demo.TOOLS, extra_body=demo.THINKING).choices[0]
    assert second.message.tool_calls is None
    assert second.message.content == demo.WEATHER_ANSWER
