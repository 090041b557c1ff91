"""What DeepSeek's guides show (api-docs.deepseek.com), with another base URL and key: each program must run to its end.

The programs are retold here, with what they expect of an answer spelled out as assertions: which attributes exist,
which of them are texts. They run against both dialects and use the hosted API's model names, which the server knows.
"""

import asyncio
import json

import anthropic
import demo
import openai
import pytest
from openai import AsyncOpenAI, OpenAI


@pytest.fixture(params=["openai_server", "deepseek_server"], ids=["openai", "deepseek"])
def server(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def client(server):
    with OpenAI(api_key=server.key, base_url=server.origin, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def beta(server):
    with OpenAI(api_key=server.key, base_url=server.url("/beta"), max_retries=0, timeout=60) as client:
        yield client


def said(server, text, expected):
    """Whether a thinking model said what was expected: in DeepSeek's dialect it draws its words, whatever was asked for."""
    return text == expected if server.dialect == "openai" else isinstance(text, str) and text != ""


HELLO = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "Hello!"}]
GREETING = "Hello! How can I help you?"
THINK = {"temperature": 0, "reasoning_effort": "high", "extra_body": demo.THINKING}
BY_NAME_OR_FIELD = [{"model": "deepseek-reasoner", "temperature": 0}, {"model": "deepseek-v4-pro", **THINK}]


def test_the_first_call(client, server):
    answer = client.chat.completions.create(model="deepseek-chat", messages=HELLO, stream=False, temperature=0)
    assert answer.choices[0].message.content == GREETING
    thought = client.chat.completions.create(model="deepseek-v4-pro", messages=HELLO, stream=False, **THINK)
    assert thought.choices[0].message.reasoning_content
    assert said(server, thought.choices[0].message.content, GREETING)


def test_the_first_stream(client):
    text = ""
    for chunk in client.chat.completions.create(model="deepseek-chat", messages=HELLO, stream=True, temperature=0):
        text += chunk.choices[0].delta.content
    assert text == GREETING


def test_several_rounds(client):
    messages = demo.user("My name is Julia.")
    first = client.chat.completions.create(model="deepseek-chat", messages=messages, temperature=0)
    messages.append(first.choices[0].message)
    messages += demo.user("What is my name?")
    second = client.chat.completions.create(model="deepseek-chat", messages=messages, temperature=0)
    assert second.choices[0].message.content == "Your name is Julia."


@pytest.mark.parametrize("mode", BY_NAME_OR_FIELD, ids=["name", "field"])
def test_thinking_over_two_turns(client, server, mode):
    messages = demo.user(demo.HARD_SUM)
    first = client.chat.completions.create(**mode, messages=messages).choices[0].message
    assert first.reasoning_content and said(server, first.content, demo.HARD_SUM_ANSWER)
    # The whole message goes back, and once only its content: the reasoning is ignored either way.
    for turn in (first, {"role": "assistant", "content": first.content}):
        again = [*messages, turn, *demo.user("What is 254+24?")]
        second = client.chat.completions.create(**mode, messages=again).choices[0].message
        assert said(server, second.content, "254 + 24 = 278")


@pytest.mark.parametrize("mode", BY_NAME_OR_FIELD, ids=["name", "field"])
def test_thinking_in_a_stream(client, server, mode):
    """The guide's loop adds up `content` wherever `reasoning_content` is empty: both must be there in every delta."""

    def run(messages):
        reasoning_content, content = "", ""
        for chunk in client.chat.completions.create(**mode, messages=messages, stream=True):
            if chunk.choices[0].delta.reasoning_content:
                reasoning_content += chunk.choices[0].delta.reasoning_content
            else:
                content += chunk.choices[0].delta.content
        return reasoning_content, content

    messages = demo.user(demo.HARD_SUM)
    reasoning_content, content = run(messages)
    assert reasoning_content and said(server, content, demo.HARD_SUM_ANSWER)
    messages.append({"role": "assistant", "reasoning_content": reasoning_content, "content": content})
    messages += demo.user("What is 254+24?")
    assert said(server, run(messages)[1], "254 + 24 = 278")


def test_sampling_options_are_no_error_while_thinking(client):
    options = {"temperature": 0.3, "top_p": 0.9, "presence_penalty": 1, "frequency_penalty": 1}
    answer = client.chat.completions.create(model="deepseek-reasoner", messages=demo.user(demo.HARD_SUM), **options)
    assert answer.choices[0].message.reasoning_content


def test_function_calling_in_the_old_form(client):
    messages = demo.user(demo.WEATHER)
    request = {"model": "deepseek-chat", "functions": [demo.WEATHER_FUNCTION], "temperature": 0}
    asked = client.chat.completions.create(messages=messages, **request).choices[0].message
    assert json.loads(asked.function_call.arguments) == {"city": "Paris"}
    messages.append(asked)
    messages.append({"role": "function", "name": asked.function_call.name, "content": demo.WEATHER_RESULT})
    assert (
        client.chat.completions.create(messages=messages, **request).choices[0].message.content == demo.WEATHER_ANSWER
    )


def test_function_calling(client):
    def send_messages(messages):
        request = {"model": "deepseek-chat", "tools": demo.TOOLS[:1], "temperature": 0}
        return client.chat.completions.create(messages=messages, **request).choices[0].message

    messages = demo.user(demo.WEATHER)
    message = send_messages(messages)
    call = message.tool_calls[0]
    messages.append(message)
    messages.append({"role": "tool", "tool_call_id": call.id, "content": demo.WEATHER_RESULT})
    assert send_messages(messages).content == demo.WEATHER_ANSWER


def test_tools_while_thinking(client, server):
    """The guide's agent: think, call, think again, until there is an answer; then a second question on top."""
    mocks = {"get_weather": lambda city: demo.WEATHER_RESULT, "calculator": lambda expression: "408"}

    def run_turn(messages):
        for _ in range(4):
            request = {"model": "deepseek-v4-pro", "tools": demo.TOOLS, **THINK}
            message = client.chat.completions.create(messages=messages, **request).choices[0].message
            messages.append(message)
            assert isinstance(message.reasoning_content, (str, type(None)))
            if message.tool_calls is None:
                return message.content
            for tool in message.tool_calls:
                result = mocks[tool.function.name](**json.loads(tool.function.arguments))
                messages.append({"role": "tool", "tool_call_id": tool.id, "content": result})
        raise AssertionError(f"no answer after four calls: {messages}")

    messages = demo.user(demo.WEATHER)
    assert said(server, run_turn(messages), demo.WEATHER_ANSWER)
    messages += demo.user(demo.PRODUCT)
    assert said(server, run_turn(messages), "12 * 34 = 408")


def test_reasoning_that_was_left_out_of_a_tool_call(client, server):
    """DeepSeek's API refuses to go on without it, in words that clients look for; OpenAI's knows no such rule."""
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    messages = [
        *demo.user(demo.WEATHER),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": demo.WEATHER_RESULT},
    ]
    request = {"model": "deepseek-v4-pro", "messages": messages, "tools": demo.TOOLS, **THINK}
    if server.dialect == "openai":
        assert client.chat.completions.create(**request).choices[0].message.content == demo.WEATHER_ANSWER
        return
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(**request)
    said = "The `reasoning_content` in the thinking mode must be passed back to the API."
    assert error.value.body["message"] == said


def test_json_output(client):
    system = 'The user gives a sentence. Extract name and age as JSON. EXAMPLE JSON OUTPUT: {"name": "Ben", "age": 40}'
    answer = client.chat.completions.create(
        model="deepseek-chat",
        messages=[{"role": "system", "content": system}, *demo.user(demo.PLUMBER)],
        response_format={"type": "json_object"},
        max_tokens=400,
    )
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_prefix_completion(beta):
    messages = [*demo.user(demo.CAPITAL), {"role": "assistant", "content": "The capital of France", "prefix": True}]
    answer = beta.chat.completions.create(model="deepseek-chat", messages=messages, stop=["."], temperature=0)
    assert answer.choices[0].message.content == " is Paris"
    assert answer.choices[0].finish_reason == "stop"


def test_fill_in_the_middle(beta):
    request = {"model": "deepseek-chat", "max_tokens": 128, "temperature": 0}
    answer = beta.completions.create(prompt=demo.FIM_PREFIX, suffix=demo.FIM_SUFFIX, **request)
    assert answer.choices[0].text == demo.FIM_MIDDLE
    answer = beta.completions.create(prompt="def fib(a):", suffix="    return fib(a-1) + fib(a-2)", **request)
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_strict_tools(beta):
    parameters = {**demo.WEATHER_FUNCTION["parameters"], "additionalProperties": False}
    tool = {"type": "function", "function": {**demo.WEATHER_FUNCTION, "parameters": parameters, "strict": True}}
    request = {"model": "deepseek-chat", "messages": demo.user(demo.WEATHER), "tools": [tool], "temperature": 0}
    [call] = beta.chat.completions.create(**request).choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris"}


def test_context_caching(client):
    report = {"role": "system", "content": "You are an expert. " + "Julia is a plumber. Ben is a teacher. " * 12}

    def usage_of(question):
        request = {"model": "deepseek-chat", "messages": [report, *demo.user(question)], "max_tokens": 4}
        return client.chat.completions.create(**request).usage

    first, second = usage_of("Who is Julia?"), usage_of("And who is Ben?")
    for usage in (first, second):
        assert usage.prompt_cache_hit_tokens + usage.prompt_cache_miss_tokens == usage.prompt_tokens
    assert second.prompt_cache_hit_tokens > second.prompt_tokens // 2


def test_the_anthropic_api(server):
    client = anthropic.Anthropic(base_url=server.url("/anthropic"), api_key=server.key, max_retries=0, timeout=60)
    message = client.messages.create(
        model="deepseek-v4-pro",
        max_tokens=1000,
        system="You are a helpful assistant.",
        messages=[{"role": "user", "content": [{"type": "text", "text": "Hi, how are you?"}]}],
    )
    assert [block.type for block in message.content][-1] == "text"
    assert message.stop_reason == "end_turn"


def test_the_responses_api(client, server):
    request = {"model": "deepseek-v4-pro", "temperature": 0}
    thought = client.responses.create(**request, input=demo.HARD_SUM, reasoning={"effort": "high"})
    assert said(server, thought.output_text, demo.HARD_SUM_ANSWER)
    direct = client.responses.create(**request, input=demo.SUM, reasoning={"effort": "none"})
    assert direct.output_text == demo.SUM_ANSWER


def test_the_list_of_models(client):
    assert all(model.object == "model" and model.owned_by for model in client.models.list().data)


def test_retrieval_and_an_answer(server):
    """Embeds notes and a question, takes the nearest note, and answers from it."""
    client = OpenAI(api_key=server.key, base_url=server.url("/v1"), max_retries=0, timeout=60)
    notes = [
        "The weather in Paris is sunny.",
        "Julia is a plumber and is 22 years old.",
        "def add(a, b): return a + b",
        "Once upon a time there was an otter.",
    ]

    def embed(texts):
        return [d.embedding for d in client.embeddings.create(model="deepseek-chat", input=texts).data]

    def nearest(question):
        [asked], kept = embed([question]), embed(notes)
        scores = [sum(x * y for x, y in zip(asked, vector, strict=True)) for vector in kept]
        return notes[scores.index(max(scores))]

    # Each note is nearest to itself, and the one that a question is about is nearest to the question.
    assert [nearest(note) for note in notes] == notes
    found = nearest("Julia is a plumber")
    assert found == notes[1]
    request = {
        "model": "deepseek-chat",
        "messages": demo.user(f"Extract name, age and job as JSON: {found}"),
        "temperature": 0,
    }
    assert json.loads(client.chat.completions.create(**request).choices[0].message.content) == demo.PLUMBER_FIELDS


def test_ten_clients_at_once(server):
    async def one(a):
        async with AsyncOpenAI(api_key=server.key, base_url=server.origin, max_retries=0, timeout=60) as client:
            request = {"model": "deepseek-chat", "messages": demo.user(f"Calculate {a} + 12"), "temperature": 0}
            stream = await client.chat.completions.create(**request, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def all_of_them():
        return await asyncio.gather(*(one(a) for a in range(10, 20)))

    assert asyncio.run(all_of_them()) == [f"{a} + 12 = {a + 12}" for a in range(10, 20)]


def test_refusals_in_deepseeks_words(deepseek_server):
    client = OpenAI(api_key=deepseek_server.key, base_url=deepseek_server.origin, max_retries=0)
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="deepseek-chat", messages=HELLO, n=2)
    body = error.value.body
    assert (body["type"], body["param"], body["code"]) == ("invalid_request_error", None, "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="deepseek-chat", messages=HELLO, temperature="hot")
    assert error.value.message.find("Failed to deserialize the JSON body into the target type") >= 0
    stranger = OpenAI(api_key="wrong", base_url=deepseek_server.origin, max_retries=0)
    with pytest.raises(openai.AuthenticationError) as error:
        stranger.models.list()
    assert error.value.body["type"] == "authentication_error"
