"""schemathesis: requests made up from the server's own OpenAPI document, valid ones and broken ones, and no 5xx."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

HERE = Path(__file__).parent
ROUTES = """/v1/chat/completions /v1/completions /beta/completions /v1/embeddings /v1/models /v1/messages
/v1/messages/count_tokens /v1/responses /tokenize /detokenize /health /ready /metrics""".split()
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
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", "25", "--max-time", "60"]
    command += ["--seed", "1", "--workers", "2", "--request-timeout", "30", "--no-color"]
    hooks = {"SCHEMATHESIS_HOOKS": str(HERE / "schema_hooks.py"), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(command, cwd=tmp_path, env={**os.environ, **hooks}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr
