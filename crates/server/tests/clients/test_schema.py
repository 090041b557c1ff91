"""schemathesis: requests made up from the server's own OpenAPI document, valid ones and broken ones, and no 5xx."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings

# Long enough to be an answer, short enough for hundreds of them.
MAX_TOKENS = 4


@pytest.fixture(scope="module")
def published(openai_server):
    headers = {"Authorization": f"Bearer {openai_server.key}"}
    return schemathesis.openapi.from_url(openai_server.url("/openapi.json"), headers=headers)


schema = schemathesis.pytest.from_fixture("published")


@schemathesis.hook
def map_body(context, body):
    """Keeps answers short; what is wrong about a length stays as it is."""
    if isinstance(body, dict):
        for field in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
            length = body.get(field, MAX_TOKENS)
            if not isinstance(length, int) or length > MAX_TOKENS:
                body = {**body, field: MAX_TOKENS} if length is None or isinstance(length, int) else body
    return body


@schema.parametrize()
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_operation(case, openai_server):
    case.call_and_validate(headers={"Authorization": f"Bearer {openai_server.key}"}, timeout=60)


@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions", "/v1/completions", "/beta/completions", "/v1/embeddings", "/v1/models", "/v1/messages"]
    + ["/v1/messages/count_tokens", "/v1/responses", "/tokenize", "/detokenize", "/health", "/ready", "/metrics"],
)
def test_every_route_is_published(published, path):
    assert path in published.raw_schema["paths"]
