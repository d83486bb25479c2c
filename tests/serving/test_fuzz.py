"""Requests that nobody would write, made from the server's own OpenAPI document by schemathesis.

Each answer must have a documented status, content type and body; none may be a failure of the server, none may hang.
The same cases in every run; `python -m benchmarks.serving_fuzz` makes many more.
"""

from __future__ import annotations

import hypothesis
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CASES = 20  # of an operation, where it takes anything
SECONDS = 30.0  # for an answer
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def test_answers_are_as_documented(served):
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    settings = hypothesis.settings(
        max_examples=CASES,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    statuses = []
    for found in schema.get_all_operations():

        @settings
        @hypothesis.given(case=found.ok().as_strategy())
        def check(case):
            statuses.append(case.call_and_validate(timeout=SECONDS, checks=CHECKS).status_code)

        check()
    assert {200, 400, 404} <= set(statuses)
    assert len(statuses) > 10 * CASES
