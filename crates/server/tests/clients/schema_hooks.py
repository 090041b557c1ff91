"""Hooks of schemathesis, which loads this file by itself (test_schema.py tells it to)."""

import schemathesis

# Long enough to be an answer, short enough for hundreds of them.
MAX_TOKENS = 4


@schemathesis.hook
def map_body(context, body):
    """Keeps answers short. Lengths of the wrong type and below the range stay as they are."""
    if not isinstance(body, dict):
        return body
    own = "max_output_tokens" if context.operation.path.endswith("/responses") else "max_tokens"
    body = {own: MAX_TOKENS, **body}
    for field in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        length = body.get(field)
        if isinstance(length, (int, float)) and length > MAX_TOKENS:
            body[field] = MAX_TOKENS
    return body
