"""The OpenAI SDK for Python against the other endpoints: models, completions, FIM, embeddings and responses."""

import math

import demo
import pytest
from openai import NotFoundError, OpenAI


@pytest.fixture(scope="module")
def connect(openai_server):
    """Makes clients of one server, which differ in the path of their base URL.

    `strict` refuses answers that do not match the SDK's types. It is of no use where those types are wrong: they know
    no `finish_reason` of null in a stream of completions, and no embedding in base64.
    """

    def client(path, strict=False):
        address = {"base_url": openai_server.url(path), "api_key": openai_server.key}
        return OpenAI(**address, max_retries=0, timeout=60, _strict_response_validation=strict)

    return client


@pytest.fixture
def complete(connect, openai_server):
    """`completions.create` of the demo model, greedy."""
    client = connect("/v1")

    def create(prompt, **options):
        return client.completions.create(
            **{"model": openai_server.model, "prompt": prompt, "temperature": 0, **options}
        )

    return create


@pytest.mark.parametrize("path", ["/v1", ""])
def test_the_list_of_models(connect, openai_server, path):
    client = connect(path, strict=True)
    models = client.models.list()
    assert models.object == "list"
    assert models.data[0].id == openai_server.model
    assert {m.object for m in models.data} == {"model"}
    assert client.models.retrieve(openai_server.model).id == openai_server.model
    with pytest.raises(NotFoundError):
        client.models.retrieve("no-such-model")


PROMPT = "Once upon a time there was a"


def test_a_completion(complete, openai_server):
    answer = complete(PROMPT, max_tokens=20)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.model == openai_server.model
    [choice] = answer.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    assert choice.text
    assert answer.usage.completion_tokens == 20
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 20
    chunks = list(complete(PROMPT, max_tokens=20, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks[:-1]) == choice.text
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], answer.usage.total_tokens)


def test_sixteen_tokens_unless_told_otherwise(complete):
    assert complete(PROMPT).usage.completion_tokens == 16


def test_several_prompts_at_once(complete):
    prompts = [PROMPT, "The capital of"]
    alone = [complete(p, max_tokens=8) for p in prompts]
    answer = complete(prompts, max_tokens=8)
    assert [c.index for c in answer.choices] == [0, 1]
    assert [c.text for c in answer.choices] == [a.choices[0].text for a in alone]
    for field in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert getattr(answer.usage, field) == sum(getattr(a.usage, field) for a in alone)


def test_echo(complete):
    plain = complete(PROMPT, max_tokens=8).choices[0].text
    assert complete(PROMPT, max_tokens=8, echo=True).choices[0].text == PROMPT + plain


def test_log_probabilities_in_the_old_form(complete):
    choice = complete(PROMPT, max_tokens=8, logprobs=3).choices[0]
    found = choice.logprobs
    assert "".join(found.tokens) == choice.text
    assert len(found.token_logprobs) == len(found.top_logprobs) == len(found.text_offset) == len(found.tokens)
    assert all(p <= 0 for p in found.token_logprobs)
    for token, p, top in zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True):
        assert 3 <= len(top) <= 4
        assert top[token] == p == max(top.values())
    assert found.text_offset == [len("".join(found.tokens[:i])) for i in range(len(found.tokens))]


@pytest.mark.parametrize("path", ["/beta", "/v1"])
def test_fill_in_the_middle(connect, openai_server, path):
    request = {
        "model": openai_server.model,
        "prompt": demo.FIM_PREFIX,
        "suffix": demo.FIM_SUFFIX,
        "max_tokens": 64,
        "temperature": 0,
    }
    client = connect(path)
    [choice] = client.completions.create(**request).choices
    assert (choice.text, choice.finish_reason) == (demo.FIM_MIDDLE, "stop")
    chunks = client.completions.create(**request, stream=True)
    assert "".join(c.choices[0].text for c in chunks if c.choices) == demo.FIM_MIDDLE


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_embeddings(connect, openai_server):
    texts = ["The weather in Paris is sunny.", "The weather in Paris is cloudy.", "def add(a, b):\n    return a + b"]
    # The SDK asks for base64 unless told otherwise, and decodes it.
    answer = connect("/v1").embeddings.create(model=openai_server.model, input=texts)
    assert answer.object == "list"
    assert answer.model == openai_server.model
    assert [d.index for d in answer.data] == [0, 1, 2]
    assert {d.object for d in answer.data} == {"embedding"}
    vectors = [d.embedding for d in answer.data]
    assert len({len(v) for v in vectors}) == 1 and len(vectors[0]) > 1
    assert all(math.isclose(dot(v, v), 1, abs_tol=1e-3) for v in vectors)
    assert dot(vectors[0], vectors[1]) > dot(vectors[0], vectors[2])
    assert answer.usage.total_tokens == answer.usage.prompt_tokens > 0


def test_an_embedding_as_numbers(connect, openai_server):
    client = connect("/v1")
    packed = client.embeddings.create(model=openai_server.model, input=PROMPT)
    plain = client.embeddings.create(model=openai_server.model, input=PROMPT, encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(packed.data[0].embedding, abs=1e-6)
    assert plain.usage.prompt_tokens == packed.usage.prompt_tokens


@pytest.fixture
def respond(connect, openai_server):
    """`responses.create` of the demo model, greedy, without reasoning unless told otherwise."""
    client = connect("/v1", strict=True)

    def create(question, **options):
        options = {"temperature": 0, "reasoning": {"effort": "none"}, **options}
        return client.responses.create(model=openai_server.model, input=question, **options)

    return create


def test_a_response(respond, openai_server):
    answer = respond(demo.SUM)
    assert (answer.object, answer.status) == ("response", "completed")
    assert answer.id.startswith("resp_")
    assert answer.model == openai_server.model
    assert answer.output_text == demo.SUM_ANSWER
    assert [item.type for item in answer.output] == ["message"]
    usage = answer.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.output_tokens_details.reasoning_tokens == 0


def test_a_response_of_several_turns(respond):
    turns = [
        {"role": "user", "content": "My name is Julia."},
        {"role": "assistant", "content": "Nice to meet you, Julia! How can I help you?"},
        {"role": "user", "content": [{"type": "input_text", "text": "What is my name?"}]},
    ]
    assert respond(turns).output_text == "Your name is Julia."


def test_a_streamed_response(respond):
    events = list(respond(demo.SUM, stream=True))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
    assert "".join(deltas) == demo.SUM_ANSWER == events[-1].response.output_text
    assert events[-1].response.usage.output_tokens > 0


def test_a_response_that_reasons(respond):
    answer = respond(demo.HARD_SUM, reasoning={"effort": "high"})
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output_text == demo.HARD_SUM_ANSWER
    assert answer.usage.output_tokens_details.reasoning_tokens > 0


def test_a_response_that_calls_a_tool(respond):
    tools = [{"type": "function", **f, "strict": None} for f in (demo.WEATHER_FUNCTION, demo.CALCULATOR_FUNCTION)]
    question = [{"role": "user", "content": demo.WEATHER}]
    first = respond(question, tools=tools)
    [call] = [item for item in first.output if item.type == "function_call"]
    assert (call.name, call.arguments.replace(" ", "")) == ("get_weather", '{"city":"Paris"}')
    result = {"type": "function_call_output", "call_id": call.call_id, "output": demo.WEATHER_RESULT}
    assert respond([*question, call, result], tools=tools).output_text == demo.WEATHER_ANSWER
