"""Where the servers under test are: addresses, keys and the model's name, as scripts/client-tests.sh exports them."""

import os
from dataclasses import dataclass

import pytest

# Read at import: no look-up of prices on the network, no telemetry.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["LANGSMITH_TRACING"] = "false"


@dataclass(frozen=True)
class Server:
    """A running server; `limited_key` may send one request a minute and no more."""

    origin: str
    key: str
    limited_key: str
    model: str
    dialect: str

    def url(self, path):
        return self.origin + path


def server(dialect):
    return Server(
        dialect=dialect,
        origin=os.environ[f"CLIENT_TESTS_{dialect.upper()}_URL"],
        key=os.environ["CLIENT_TESTS_KEY"],
        limited_key=os.environ["CLIENT_TESTS_LIMITED_KEY"],
        model=os.environ["CLIENT_TESTS_MODEL"],
    )


@pytest.fixture(scope="session")
def openai_server():
    """Started with its defaults, which is `--dialect openai`."""
    return server("openai")


@pytest.fixture(scope="session")
def deepseek_server():
    """Started with `--dialect deepseek`."""
    return server("deepseek")
