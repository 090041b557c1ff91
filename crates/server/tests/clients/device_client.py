"""The OpenAI SDK for Python as a program: asks the server at argv[1] for argv[2] tokens, whole and as a stream, and
prints both texts as JSON. crates/cachalot/tests/serve/devices.rs runs it against servers on several devices."""

import json
import sys

from openai import OpenAI

url, max_tokens = sys.argv[1], int(sys.argv[2])
request = {
    "model": "demo",
    "messages": [{"role": "user", "content": "What is 2 + 3?"}],
    "temperature": 0,
    "max_tokens": max_tokens,
}
with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, _strict_response_validation=True) as client:
    whole = client.chat.completions.create(**request)
    deltas = (chunk.choices[0].delta for chunk in client.chat.completions.create(**request, stream=True))
    streamed = "".join(delta.content or "" for delta in deltas)
print(json.dumps([whole.choices[0].message.content, streamed]))
