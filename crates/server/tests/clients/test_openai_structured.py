"""The OpenAI SDK for Python when the form of the answer is given: JSON, schemas, strict tools and forced calls."""

import json
from enum import Enum

import demo
import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel, ConfigDict


@pytest.fixture(scope="module")
def client(openai_server):
    with OpenAI(base_url=openai_server.url("/v1"), api_key=openai_server.key, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def chat(client, openai_server):
    """`chat.completions.create` of the demo model, greedy and without reasoning unless told otherwise."""

    def create(question, **options):
        options = {"temperature": 0, "extra_body": demo.DIRECT, **options}
        return client.chat.completions.create(model=openai_server.model, messages=demo.user(question), **options)

    return create


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    age: int
    job: str


class Planet(Enum):
    MERCURY = "Mercury"
    VENUS = "Venus"


class Visit(BaseModel):
    """Nothing that the demo model would write on its own."""

    model_config = ConfigDict(extra="forbid")
    planet: Planet
    landed: bool
    crew: list[Person]


def test_json_mode(chat):
    choice = chat(demo.PLUMBER, response_format={"type": "json_object"}).choices[0]
    assert choice.finish_reason == "stop"
    assert json.loads(choice.message.content) == demo.PLUMBER_FIELDS


def test_json_mode_holds_where_the_model_would_not(chat):
    """Asked for a story, the model starts a sentence; in JSON mode it must start an object."""
    content = (
        chat(demo.STORY + " as JSON.", response_format={"type": "json_object"}, max_tokens=400)
        .choices[0]
        .message.content
    )
    assert content.lstrip().startswith("{")


def test_a_schema_is_parsed_into_its_class(client, openai_server):
    answer = client.chat.completions.parse(
        model=openai_server.model,
        messages=demo.user(demo.PLUMBER),
        response_format=Person,
        temperature=0,
        extra_body=demo.DIRECT,
    )
    assert answer.choices[0].message.parsed == Person(**demo.PLUMBER_FIELDS)


def schema_of(model):
    return {
        "type": "json_schema",
        "json_schema": {"name": model.__name__, "strict": True, "schema": model.model_json_schema()},
    }


@pytest.mark.parametrize("question", [demo.PLUMBER, demo.STORY, demo.SUM])
@pytest.mark.parametrize("mode", [demo.DIRECT, demo.THINKING], ids=["direct", "thinking"])
def test_a_schema_holds_whatever_was_asked(chat, question, mode):
    choice = chat(question, response_format=schema_of(Visit), extra_body=mode, max_tokens=600).choices[0]
    if mode is demo.THINKING:
        assert choice.message.reasoning_content
    if choice.finish_reason == "stop":
        Visit.model_validate_json(choice.message.content)
    else:
        assert choice.finish_reason == "length"
        assert choice.message.content.startswith("{")


def test_a_streamed_schema(chat):
    request = {"response_format": schema_of(Person)}
    whole = chat(demo.PLUMBER, **request).choices[0].message.content
    chunks = chat(demo.PLUMBER, **request, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole
    assert Person.model_validate_json(whole) == Person(**demo.PLUMBER_FIELDS)


def test_a_schema_that_cannot_be_is_refused(chat):
    broken = {
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {"type": "object", "properties": {"a": {"type": "what"}}}},
    }
    with pytest.raises(openai.BadRequestError) as error:
        chat(demo.PLUMBER, response_format=broken)
    assert error.value.param.startswith("response_format")


def test_a_bomb_is_refused(chat):
    """Thirty nested counts: as an automaton, more states than there is memory."""
    pattern = "(" * 30 + "a" + "{9})" * 30
    bomb = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string", "pattern": pattern}}}
    with pytest.raises(openai.BadRequestError):
        chat(demo.PLUMBER, response_format=bomb)
    assert chat(demo.SUM).choices[0].message.content == demo.SUM_ANSWER


def test_a_required_call(chat):
    choice = chat("Hello!", tools=demo.TOOLS, tool_choice="required").choices[0]
    assert choice.finish_reason == "tool_calls"
    for call in choice.message.tool_calls:
        assert call.function.name in ("get_weather", "calculator")
        assert isinstance(json.loads(call.function.arguments), dict)


@pytest.mark.parametrize("strict", [False, True], ids=["loose", "strict"])
@pytest.mark.parametrize("function", [demo.WEATHER_FUNCTION, demo.CALCULATOR_FUNCTION], ids=lambda f: f["name"])
def test_a_named_call(chat, function, strict):
    """Whatever was asked, the named tool is called; only a strict one has arguments that follow its schema."""
    parameters = {**function["parameters"], "additionalProperties": False}
    tools = [*demo.TOOLS, {"type": "function", "function": {**function, "name": "other"}}]
    if strict:
        tools = [{"type": "function", "function": {**function, "parameters": parameters, "strict": True}}]
    choice = {"type": "function", "function": {"name": function["name"]}}
    calls = chat(demo.WEATHER, tools=tools, tool_choice=choice).choices[0].message.tool_calls
    assert {call.function.name for call in calls} == {function["name"]}
    arguments = json.loads(calls[0].function.arguments)
    assert isinstance(arguments, dict)
    if strict:
        assert list(arguments) == parameters["required"]


def test_a_strict_tool(chat):
    """The only city that the schema allows is not the one that was asked about."""
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Atlantis"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {**demo.WEATHER_FUNCTION, "parameters": parameters, "strict": True}}
    [call] = chat(demo.WEATHER, tools=[tool]).choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Atlantis"}
