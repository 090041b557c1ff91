"""litellm against the server: its `deepseek`, `openai` and `anthropic` providers, and its mapping of errors."""

import asyncio
import json

import demo
import litellm
import pytest


@pytest.fixture(params=["deepseek", "openai", "anthropic"])
def ask(request, openai_server):
    """`litellm.completion` through one provider, greedy and without reasoning unless told otherwise."""
    provider = request.param
    path = {"deepseek": "/beta", "openai": "/v1", "anthropic": "/anthropic"}[provider]

    def create(question, **options):
        messages = demo.user(question) if isinstance(question, str) else question
        if provider == "openai":
            options = {"extra_body": demo.DIRECT, **options}
        elif "thinking" not in options:
            options["thinking"] = {"type": "disabled"}
        options = {"temperature": 0, "max_tokens": 300, "num_retries": 0, "timeout": 60, **options}
        address = {"api_base": openai_server.url(path), "api_key": openai_server.key}
        # litellm lets only models that it knows think through Anthropic's API.
        name = "claude-sonnet-4-5" if provider == "anthropic" else openai_server.model
        return litellm.completion(model=f"{provider}/{name}", messages=messages, **address, **options)

    create.provider = provider
    return create


def test_a_message(ask):
    answer = ask(demo.SUM)
    assert answer.choices[0].message.content == demo.SUM_ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


def test_a_stream_adds_up(ask):
    chunks = list(ask(demo.STORY, stream=True))
    assert len(chunks) > 10
    rebuilt = litellm.stream_chunk_builder(chunks)
    assert rebuilt.choices[0].message.content == ask(demo.STORY).choices[0].message.content
    assert rebuilt.choices[0].finish_reason == "stop"


def test_a_tool_and_its_result(ask):
    first = ask(demo.WEATHER, tools=demo.TOOLS).choices[0]
    assert first.finish_reason == "tool_calls"
    [call] = first.message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    result = {"role": "tool", "tool_call_id": call.id, "content": demo.WEATHER_RESULT}
    second = ask([*demo.user(demo.WEATHER), first.message, result], tools=demo.TOOLS).choices[0]
    assert second.message.content == demo.WEATHER_ANSWER


def test_streamed_tool_calls(ask):
    rebuilt = litellm.stream_chunk_builder(list(ask(demo.WEATHER_TWICE, tools=demo.TOOLS, stream=True)))
    calls = rebuilt.choices[0].message.tool_calls
    assert [json.loads(c.function.arguments) for c in calls] == [{"city": "Paris"}, {"city": "Rome"}]


def test_reasoning(ask):
    thinking = {"type": "enabled", "budget_tokens": 1024} if ask.provider == "anthropic" else {"type": "enabled"}
    options = {"extra_body": demo.THINKING} if ask.provider == "openai" else {"thinking": thinking}
    message = ask(demo.HARD_SUM, max_tokens=1500, **options).choices[0].message
    assert message.content == demo.HARD_SUM_ANSWER
    assert message.reasoning_content


def test_refusals(ask, openai_server):
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(
            model=f"openai/{openai_server.model}",
            messages=demo.user("Hi"),
            api_base=openai_server.url("/v1"),
            api_key="wrong",
            num_retries=0,
        )
    with pytest.raises(litellm.BadRequestError):
        ask("Hi", temperature=5)
    with pytest.raises(litellm.ContextWindowExceededError):
        ask("word " * 4000)


def address(server):
    return {"api_base": server.url("/v1"), "api_key": server.key, "num_retries": 0, "timeout": 60}


def test_json_mode(openai_server):
    answer = litellm.completion(
        model=f"deepseek/{openai_server.model}",
        messages=demo.user(demo.PLUMBER),
        response_format={"type": "json_object"},
        temperature=0,
        thinking={"type": "disabled"},
        **address(openai_server),
    )
    assert json.loads(answer.choices[0].message.content) == demo.PLUMBER_FIELDS


def test_text_completion(openai_server):
    model = f"text-completion-openai/{openai_server.model}"
    request = {
        "model": model,
        "prompt": "Once upon a time there was a",
        "max_tokens": 12,
        "temperature": 0,
        **address(openai_server),
    }
    answer = litellm.text_completion(**request)
    assert answer.choices[0].text and answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 12


def test_embedding(openai_server):
    answer = litellm.embedding(
        model=f"openai/{openai_server.model}",
        input=["a cat", "a dog"],
        encoding_format="float",
        **address(openai_server),
    )
    assert [d["index"] for d in answer.data] == [0, 1]
    assert len(answer.data[0]["embedding"]) == len(answer.data[1]["embedding"]) > 1


def test_many_at_once(openai_server):
    async def ask_all(sums):
        request = {
            "model": f"deepseek/{openai_server.model}",
            "temperature": 0,
            "thinking": {"type": "disabled"},
            **address(openai_server),
        }
        return await asyncio.gather(*(litellm.acompletion(messages=demo.user(s), **request) for s in sums))

    answers = asyncio.run(ask_all([f"Calculate {a} + 12" for a in range(10, 18)]))
    assert [a.choices[0].message.content for a in answers] == [f"{a} + 12 = {a + 12}" for a in range(10, 18)]
