"""The anthropic package as a client of servers."""

import anthropic
import pytest


@pytest.fixture(scope="module")
def connect():
    """A client of a server."""
    opened = []

    def connect(served, api_key="none"):
        opened.append(anthropic.Anthropic(base_url=served.url, api_key=api_key, max_retries=0, timeout=60))
        return opened[-1].messages

    yield connect
    for client in opened:
        client.close()


@pytest.fixture(scope="module")
def messages(connect, served):
    return connect(served)
