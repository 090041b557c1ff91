"""Hooks of schemathesis, which loads this file by itself (test_schema.py tells it to)."""

import schemathesis

# Long enough to be an answer, short enough for hundreds of them.
MAX_TOKENS = 4


@schemathesis.hook
def map_body(context, body):
    """Keeps answers short. Lengths of the wrong type and below the range stay as they are."""
    if not isinstance(body, dict):
        return body
    short = {}
    for field in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        length = body.get(field)
        if length is None or isinstance(length, (int, float)) and length > MAX_TOKENS:
            short[field] = MAX_TOKENS
    return {**body, **short}
