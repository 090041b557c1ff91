"""Hooks of schemathesis, which loads this file by itself (test_schema.py tells it to): what is asked, what came back."""

import copy
import os

import schemathesis
from schemathesis import GenerationMode

# Long enough to be an answer, short enough for hundreds of them.
MAX_TOKENS = 4


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
    for message in body.get("messages") or []:
        if isinstance(message, dict) and message.get("content") is None:
            message["content"] = "Hi"


@schemathesis.hook
def after_call(context, case, response):
    """Notes the status of every answer, for test_schema.py to count."""
    with open(os.environ["SCHEMA_ANSWERS"], "a") as answers:
        answers.write(f"{case.operation.method.upper()} {case.operation.path} {response.status_code}\n")
