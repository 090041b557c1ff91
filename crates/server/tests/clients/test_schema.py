"""schemathesis: requests made up from the server's own OpenAPI document, valid ones and broken ones, and no 5xx."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx
import pytest

HERE = Path(__file__).parent
ROUTES = """/v1/chat/completions /v1/completions /beta/completions /v1/embeddings /v1/models /v1/messages
/v1/messages/count_tokens /v1/responses /v1/tokenize /v1/detokenize /health /ready /metrics""".split()
READ_ONLY = ("/v1/models", "/health", "/ready", "/metrics")
# Not among them: that whatever the document allows is accepted. Roles, tools and lengths have rules beyond JSON Schema.
CHECKS = """not_a_server_error status_code_conformance content_type_conformance response_schema_conformance
response_headers_conformance negative_data_rejection missing_required_header unsupported_method allow_header_conformance
ignored_auth""".split()


@pytest.fixture(scope="module")
def published(openai_server):
    """The paths of the OpenAPI document."""
    headers = {"Authorization": f"Bearer {openai_server.key}"}
    return httpx.get(openai_server.url("/openapi.json"), headers=headers).raise_for_status().json()["paths"]


@pytest.mark.parametrize("path", ROUTES)
def test_every_route_is_published(published, path):
    assert path in published


def test_no_request_makes_the_server_fail(openai_server, tmp_path):
    command = [Path(sys.executable).parent / "schemathesis", "run", openai_server.url("/openapi.json")]
    command += ["--header", f"Authorization: Bearer {openai_server.key}", "--checks", ",".join(CHECKS)]
    # Most routes are there with and without /v1.
    command += ["--include-path-regex", "^/(v1|beta/completions|health|ready|metrics)"]
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", "20", "--continue-on-failure"]
    # One worker: Python 3.11 has a parser that two threads confuse.
    command += ["--seed", "1", "--workers", "1", "--request-timeout", "30", "--no-color"]
    answers = tmp_path / "answers.txt"
    hooks = {"SCHEMATHESIS_HOOKS": str(HERE / "schema_hooks.py"), "SCHEMA_ANSWERS": str(answers)}
    environment = {**os.environ, **hooks, "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr
    # Requests that are all refused at the door would show nothing.
    counted = Counter(answers.read_text().splitlines())
    for path in ROUTES:
        method = "GET" if path in READ_ONLY else "POST"
        assert counted[f"{method} {path} 200"] > 0, counted
        assert method == "GET" or counted[f"{method} {path} 400"] > 0, counted
    assert counted.total() > 1000
