"""langchain-deepseek against the server: messages, streams, reasoning, tools and structured output."""

import asyncio

import demo
import openai
import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_deepseek import ChatDeepSeek
from pydantic import BaseModel


@pytest.fixture(params=["openai_server", "deepseek_server"], ids=["openai", "deepseek"])
def server(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def model(server):
    """Makes greedy chat models."""

    def make(name="deepseek-chat", **options):
        options = {"temperature": 0, "max_tokens": 300, "max_retries": 0, "timeout": 60, **options}
        return ChatDeepSeek(model=name, base_url=server.url("/v1"), api_key=server.key, **options)

    return make


@tool
def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return demo.WEATHER_RESULT


class Person(BaseModel):
    """A person."""

    name: str
    age: int
    job: str


def test_a_message(model):
    answer = model().invoke(demo.SUM)
    assert answer.content == demo.SUM_ANSWER
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.response_metadata["model_provider"] == "deepseek"
    usage = answer.usage_metadata
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["input_token_details"]["cache_read"] >= 0
    assert answer.id


def test_earlier_turns(model):
    first = [SystemMessage("You are a helpful assistant."), HumanMessage("My name is Julia.")]
    turns = [*first, model().invoke(first), HumanMessage("What is my name?")]
    assert model().invoke(turns).content == "Your name is Julia."


def test_a_stream_adds_up(model):
    whole = AIMessageChunk("")
    chunks = list(model(stream_usage=True).stream(demo.STORY))
    for chunk in chunks:
        whole += chunk
    assert len(chunks) > 10
    alone = model().invoke(demo.STORY)
    assert whole.content == alone.content
    assert whole.response_metadata["finish_reason"] == "stop"
    assert whole.usage_metadata["output_tokens"] == alone.usage_metadata["output_tokens"]


def test_many_at_once(model):
    questions = [f"Calculate {a} + 12" for a in range(10, 18)]
    answers = asyncio.run(model().abatch(questions))
    assert [a.content for a in answers] == [f"{a} + 12 = {a + 12}" for a in range(10, 18)]


def test_reasoning(model, server):
    answer = model("deepseek-reasoner").invoke(demo.HARD_SUM)
    assert isinstance(answer.content, str) and answer.content
    assert answer.additional_kwargs["reasoning_content"]
    assert answer.usage_metadata["output_token_details"]["reasoning"] > 0
    streamed = [
        c.additional_kwargs.get("reasoning_content") or "" for c in model("deepseek-reasoner").stream(demo.HARD_SUM)
    ]
    assert sum(map(bool, streamed)) > 1
    # DeepSeek's API draws its words while thinking, whatever the temperature of the request.
    if server.dialect == "openai":
        assert answer.content == demo.HARD_SUM_ANSWER
        assert "".join(streamed) == answer.additional_kwargs["reasoning_content"]


def test_a_tool_and_its_result(model):
    bound = model().bind_tools([get_weather])
    question = HumanMessage(demo.WEATHER)
    asked = bound.invoke([question])
    [call] = asked.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"})
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage) and result.tool_call_id == call["id"]
    assert bound.invoke([question, asked, result]).content == demo.WEATHER_ANSWER


def test_streamed_tool_calls(model):
    whole = AIMessageChunk("")
    for chunk in model().bind_tools([get_weather]).stream(demo.WEATHER_TWICE):
        whole += chunk
    assert [call["args"] for call in whole.tool_calls] == [{"city": "Paris"}, {"city": "Rome"}]
    assert whole.response_metadata["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("method", ["json_mode", "function_calling"])
def test_structured_output(model, method):
    structured = model().with_structured_output(Person, method=method)
    assert structured.invoke(demo.PLUMBER) == Person(**demo.PLUMBER_FIELDS)


def test_refusals(model):
    with pytest.raises(openai.BadRequestError):
        model(temperature=5).invoke("Hi")
    with pytest.raises(openai.NotFoundError):
        model("no-such-model").invoke("Hi")
