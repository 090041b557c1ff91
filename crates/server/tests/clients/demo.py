"""What the demo model was trained on: questions with the one right answer, and its two tools.

Its greedy answers are the same on every machine (`cachalot eval` counts them), so the tests may compare texts.
"""

SUM = "Calculate 12 + 30"
SUM_ANSWER = "12 + 30 = 42"
HARD_SUM = "What is 812+395?"
HARD_SUM_ANSWER = "812 + 395 = 1207"
CAPITAL = "What is the capital of France?"
CAPITAL_ANSWER = "The capital of France is Paris."
STORY = "Tell me a story about an otter"
PLUMBER = "Extract name, age and job as JSON: Julia is a plumber and is 22 years old."
PLUMBER_FIELDS = {"name": "Julia", "age": 22, "job": "plumber"}
FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE = "def is_positive(first):\n    ", "\n", "return first > 0"

WEATHER = "What is the weather in Paris?"
WEATHER_TWICE = "What is the weather in Paris and Rome?"
PRODUCT = "What is 12 * 34?"
WEATHER_RESULT = '{"temperature": 21, "condition": "sunny"}'
WEATHER_ANSWER = "It is 21 degrees and sunny in Paris."

WEATHER_FUNCTION = {
    "name": "get_weather",
    "description": "Get the weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "City name"}},
        "required": ["city"],
    },
}
CALCULATOR_FUNCTION = {
    "name": "calculator",
    "description": "Evaluate an arithmetic expression.",
    "parameters": {
        "type": "object",
        "properties": {"expression": {"type": "string", "description": "The expression to evaluate"}},
        "required": ["expression"],
    },
}
TOOLS = [{"type": "function", "function": f} for f in (WEATHER_FUNCTION, CALCULATOR_FUNCTION)]

# Passed as `extra_body` to the OpenAI SDK, as DeepSeek's guide on thinking has it.
THINKING = {"thinking": {"type": "enabled"}}
DIRECT = {"thinking": {"type": "disabled"}}


def user(text):
    """A conversation of one question."""
    return [{"role": "user", "content": text}]
