"""A body for every endpoint that takes one, with every field it has: what tests spoil or turn away."""

from __future__ import annotations

import base64
from typing import Any

import httpx

from tests.server.harness import RunningServer

Body = dict[str, Any]

IMAGE = base64.b64encode(b"no image").decode()
SCHEMA: Body = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 9, "pattern": "^[A-Z]"},
        "days": {"type": "array", "items": {"$ref": "#/$defs/day"}, "minItems": 1, "maxItems": 2},
        "unit": {"enum": ["C", "F"], "description": "of the temperature"},
        "kind": {"anyOf": [{"type": "null"}, {"oneOf": [{"const": 1}, {"type": "string"}]}]},
    },
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"day": {"type": "integer", "minimum": 0, "exclusiveMaximum": 9, "multipleOf": 1}},
}
FUNCTION: Body = {"name": "f", "description": "does", "parameters": SCHEMA, "strict": True}
TOOLS: list[Any] = [{"type": "function", "function": FUNCTION}]
JSON_SCHEMA: Body = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA, "strict": True}}
REGEX: Body = {"type": "grammar", "syntax": "regex", "definition": "(a|b)+"}
ALLOWED: Body = {"mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]}

_CALL: Body = {
    "id": "c1",
    "type": "function",
    "function": {"name": "f", "arguments": {"city": "A"}, "index": 0},
}
_CALL_OF_OPENAI: Body = {
    "id": "c1",
    "type": "function",
    "function": {"name": "f", "arguments": '{"city": "A"}'},
}
_MESSAGES: list[Any] = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "hello", "images": []},
    {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [_CALL]},
    {"role": "tool", "content": "fine", "tool_name": "f", "tool_call_id": "c1"},
]
_OPTIONS: Body = {
    "num_ctx": 512,
    "num_keep": 2,
    "num_predict": 9,
    "temperature": 0.5,
    "top_k": 9,
    "top_p": 0.9,
    "min_p": 0.1,
    "typical_p": 0.9,
    "repeat_last_n": 9,
    "repeat_penalty": 1.1,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "seed": 1,
    "stop": ["x"],
    "num_gpu": 1,
}
_NATIVE: Body = {
    "model": "echo",
    "stream": False,
    "keep_alive": "5m",
    "options": _OPTIONS,
    "think": False,
    "truncate": True,
    "shift": True,
    "logprobs": True,
    "top_logprobs": 2,
    "_debug_render_only": False,
}
_SAMPLING: Body = {
    "max_tokens": 9,
    "temperature": 0.5,
    "top_p": 0.9,
    "seed": 1,
    "stop": ["x"],
    "frequency_penalty": 0.1,
    "presence_penalty": 0.1,
    "logit_bias": {"5": 1.5},
    "n": 2,
    "stream": True,
    "stream_options": {"include_usage": True},
    "_debug_render_only": False,
}
_TURNS: list[Any] = [
    {"role": "user", "content": [{"type": "text", "text": "hello"}]},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "text", "text": "well"},
            {"type": "tool_use", "id": "t1", "name": "f", "input": {"city": "A"}},
            {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "a"}},
            {
                "type": "web_search_tool_result",
                "tool_use_id": "s1",
                "content": [{"type": "web_search_result", "title": "A", "url": "http://a"}],
            },
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "fine"}]},
            {"type": "document", "title": "D", "source": {"type": "text", "data": "in it"}},
            {
                "type": "search_result",
                "title": "S",
                "source": "s",
                "content": [{"type": "text", "text": "of it"}],
            },
            {"type": "text", "text": "and?"},
        ],
    },
]
_ANTHROPIC: Body = {
    "model": "tooled",
    "messages": _TURNS,
    "system": [{"type": "text", "text": "be kind"}],
    "tools": [
        {"name": "f", "description": "does", "input_schema": SCHEMA, "strict": True},
        {"type": "bash_20250124", "name": "bash"},
    ],
    "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    "thinking": {"type": "adaptive", "budget_tokens": 1024},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
}

# By path; the first one of each is answered with 200 by a server that was prepared.
BODIES: dict[str, list[Body]] = {
    "/api/chat": [
        {**_NATIVE, "messages": _MESSAGES, "format": SCHEMA},
        {**_NATIVE, "model": "tooled", "messages": _MESSAGES, "tools": TOOLS, "format": REGEX},
    ],
    "/api/generate": [
        {**_NATIVE, "prompt": "hello", "system": "be kind", "context": [65], "images": [], "format": "json"},
        {**_NATIVE, "prompt": "hello", "raw": True, "format": REGEX},
        {**_NATIVE, "prompt": "hello", "suffix": "x", "template": "{{ .Prompt }}", "images": [IMAGE]},
    ],
    "/api/embed": [
        {"model": "vectors", "input": ["a", "b"], "truncate": True, "dimensions": 2, "keep_alive": 5}
        | {"options": _OPTIONS}
    ],
    "/api/embeddings": [{"model": "vectors", "prompt": "a", "keep_alive": -1, "options": _OPTIONS}],
    "/api/show": [
        {"model": "echo", "name": "echo", "system": "be kind", "options": _OPTIONS, "verbose": True},
    ],
    "/api/copy": [{"source": "echo", "destination": "copied"}],
    "/api/delete": [{"model": "copied", "name": "copied"}],
    "/api/create": [
        {
            **{"model": "made", "name": "made", "from": "echo", "stream": False, "system": "be kind"},
            **{
                "template": "{{ .Prompt }}",
                "license": ["free"],
                "parameters": _OPTIONS,
                "messages": _MESSAGES,
            },
            **{"renderer": "", "parser": "", "requires": "", "info": {"a": [1]}},
        },
        {
            "model": "made",
            "from": "echo",
            "quantize": "q8_0",
            "quantization": "q4_0",
            "remote_host": "http://x",
        },
        {"model": "made", "files": {"a.gguf": "sha256:" + "0" * 64}, "adapters": {"b": "sha256:" + "1" * 64}},
        {"model": "made", "from": "echo", "draft_files": {"a": "sha256:0"}, "draft_quantize": "q8_0"},
    ],
    "/v1/chat/completions": [
        {
            **_SAMPLING,
            "model": "echo",
            "messages": [
                {"role": "developer", "content": "be kind"},
                {"role": "user", "content": [{"type": "text", "text": "hello"}], "name": "me"},
                {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [_CALL_OF_OPENAI]},
                {"role": "tool", "content": "fine", "tool_call_id": "c1"},
                {"role": "assistant", "content": "well", "reasoning_content": "hm"},
                {"role": "user", "content": "and?"},
            ],
            "max_completion_tokens": 9,
            "response_format": JSON_SCHEMA,
            "logprobs": True,
            "top_logprobs": 2,
            "reasoning": {"effort": "none", "summary": "auto"},
            "reasoning_effort": "none",
        },
        {
            "model": "tooled",
            "messages": [{"role": "user", "content": "hello"}],
            "tools": TOOLS,
            "tool_choice": {"type": "allowed_tools", "allowed_tools": ALLOWED},
            "parallel_tool_calls": False,
        },
        {
            "model": "tooled",
            "messages": [{"role": "user", "content": "hello"}],
            "tools": TOOLS,
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "response_format": REGEX,
        },
        {
            "model": "echo",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}},
                        {"type": "input_audio", "input_audio": {"data": IMAGE, "format": "wav"}},
                        {"type": "refusal", "refusal": "no"},
                    ],
                }
            ],
        },
    ],
    "/v1/completions": [
        {**_SAMPLING, "model": "echo", "prompt": ["hello", [65, 66]], "echo": True, "logprobs": 2},
        {**_SAMPLING, "model": "echo", "prompt": [65, 66], "stream": False, "best_of": 3},
        {"model": "echo", "prompt": "hello", "suffix": "x"},
    ],
    "/v1/embeddings": [
        {"model": "vectors", "input": ["a", [65]], "dimensions": 2, "encoding_format": "base64"},
        {"model": "vectors", "input": [65, 66]},
    ],
    "/v1/responses": [
        {
            "model": "tooled",
            "instructions": "be kind",
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "hello"}]},
                {
                    "type": "reasoning",
                    "summary": [{"type": "summary_text", "text": "hm"}],
                    "encrypted_content": "",
                },
                {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"city": "A"}'},
                {
                    "type": "message",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": "well"}],
                },
                {
                    "type": "function_call_output",
                    "call_id": "c1",
                    "output": [{"type": "input_text", "text": "x"}],
                },
                {"type": "web_search_call", "id": "w1", "action": {"type": "search"}},
                {"role": "user", "content": "and?"},
            ],
            "stream": True,
            "max_output_tokens": 20,
            "temperature": 0.5,
            "top_p": 0.9,
            "reasoning": {"effort": "none", "summary": "auto"},
            "text": {"format": {"type": "json_schema", "name": "s", "schema": SCHEMA, "strict": True}},
            "tools": [
                {"type": "function", **FUNCTION},
                {"type": "namespace", "name": "n", "tools": [{"type": "function", **FUNCTION}]},
                {"type": "web_search", "search_context_size": "low"},
            ],
            "tool_choice": {"type": "function", "name": "f"},
            "parallel_tool_calls": False,
            "truncation": "auto",
            "include": ["message.output_text.logprobs"],
            "top_logprobs": 2,
            "background": False,
            "previous_response_id": "",
        },
        {
            "model": "echo",
            "input": [
                {"role": "user", "content": [{"type": "input_image", "image_url": f"data:;base64,{IMAGE}"}]}
            ],
            "conversation": {"id": "conv_1"},
            "prompt": {"id": "pmpt_1"},
        },
    ],
    "/v1/messages": [
        {
            **_ANTHROPIC,
            **{"max_tokens": 9, "stop_sequences": ["x"], "stream": True},
            **{"temperature": 0.5, "top_p": 0.9, "top_k": 9},
        },
        {
            "model": "echo",
            "max_tokens": 9,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": IMAGE},
                        },
                        {"type": "text", "text": "hello"},
                    ],
                }
            ],
        },
    ],
    "/v1/messages/count_tokens": [_ANTHROPIC],
}


_OFFERING = "{{ range .Tools }}[{{ . }}]{{ end }}{{ range .Messages }}{{ .Role }}:{{ .Content }} {{ end }}"


def prepare(server: RunningServer, **headers: str) -> None:
    """Give a server that has `echo` and `vectors` the models `tooled`, which can be offered tools, and `copied`."""
    for path, body in (
        ("/api/create", {"model": "tooled", "from": "echo", "template": _OFFERING, "stream": False}),
        ("/api/copy", {"source": "echo", "destination": "copied"}),
    ):
        assert httpx.post(f"{server.url}{path}", json=body, headers=headers).status_code == 200
