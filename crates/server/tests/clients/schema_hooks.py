"""Hooks of schemathesis, which loads this file by itself (test_schema.py tells it to): what is asked, what came back."""

import copy
import os

import schemathesis
from schemathesis import GenerationMode

# Long enough to be an answer, short enough for hundreds of them.
MAX_TOKENS = 4


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """OpenAPI 3.1 describes a stream as one text; schemathesis would hold each of its events against that."""
    for operations in raw_schema["paths"].values():
        for operation in operations.values():
            for response in operation["responses"].values():
                response.get("content", {}).get("text/event-stream", {}).pop("schema", None)


@schemathesis.hook
def before_call(context, case, kwargs):
    """Makes requests that match the document match the server's further rules too, and keeps their answers short."""
    # A copy: the generator goes on with the parts of what it made.
    body = case.body = copy.deepcopy(case.body)
    if not isinstance(body, dict) or case.meta is None or case.meta.generation.mode != GenerationMode.POSITIVE:
        return
    own = "max_output_tokens" if case.operation.path.endswith("/responses") else "max_tokens"
    body.setdefault(own, MAX_TOKENS)
    for field in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        if isinstance(body.get(field), (int, float)):
            body[field] = min(int(body[field]), MAX_TOKENS)
    if "model" in body:
        body["model"] = os.environ["CLIENT_TESTS_MODEL"]
    if body.get("stream_options") is not None:
        body["stream"] = True
    if body.get("tools") is not None or body.get("tool_choice") is not None:
        body.pop("functions", None)
        body.pop("function_call", None)
    if "reasoning_effort" in body:
        body["reasoning_effort"] = "low"
    for message in body.get("messages") or []:
        settle(message)


def settle(message):
    """What a message may hold depends on its role and on its neighbours: this one may stand anywhere."""
    if message.get("content") is None:
        message["content"] = "Hi"
    if message["role"] in ("tool", "function"):
        message["role"] = "user"
    for field in ("tool_calls", "function_call", "tool_call_id", "prefix"):
        message.pop(field, None)


@schemathesis.hook
def after_call(context, case, response):
    """Notes the status of every answer, for test_schema.py to count."""
    with open(os.environ["SCHEMA_ANSWERS"], "a") as answers:
        answers.write(f"{case.operation.method.upper()} {case.operation.path} {response.status_code}\n")
