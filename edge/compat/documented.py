"""What the OpenAPI document says about the dialects of other vendors."""

from typing import Any, Final

_OPENAI_ERROR: Final = {
    "description": "An error in OpenAI's form.",
    "content": {"application/json": {"schema": {"type": "object", "properties": {"error": {"type": "object"}}}}},
}
_ANTHROPIC_ERROR: Final = {
    "description": "An error in Anthropic's form.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "type": {"const": "error"},
                    "error": {
                        "type": "object",
                        "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
                    },
                    "request_id": {"type": "string"},
                },
            }
        }
    },
}

COMPAT_TAGS: Final = (
    {
        "name": "OpenAI",
        "description": "The part of OpenAI's API that the official SDKs use unmodified: set their base URL to `/v1` of "
        "this host and their API key to one of Parley.",
    },
    {
        "name": "Anthropic",
        "description": "The part of Anthropic's API that the official SDKs use unmodified: set their base URL to "
        "`/anthropic` of this host and their API key to one of Parley. Any model of the platform answers.",
    },
)

_KNOWLEDGE_BASE: Final = {
    "name": "X-Parley-Knowledge-Base",
    "in": "header",
    "description": "Id of the knowledge base to answer from; the body's `knowledge_base_id` means the same.",
    "schema": {"type": "string"},
}
_CONVERSATION: Final = {
    "name": "X-Parley-Conversation",
    "in": "header",
    "description": "Id of a conversation to go on with: only the last message of the body is taken.",
    "schema": {"type": "string"},
}
_ANTHROPIC_PROPERTIES: Final = {
    "model": {"type": "string", "description": "`<provider>/<model>`; `default` for the platform's."},
    "messages": {"type": "array", "items": {"type": "object"}},
    "system": {"type": ["string", "array"]},
    "tools": {"type": "array", "items": {"type": "object"}},
    "tool_choice": {"type": "object"},
    "thinking": {"type": "object"},
    "output_config": {"type": "object"},
}
_ANTHROPIC_LIMIT: Final = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 20}


def _body(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:  # Any: JSON
    schema = {"type": "object", "properties": properties, "required": required}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


# Any: JSON, as deep as OpenAPI is.
COMPAT_PATHS: Final[dict[str, dict[str, Any]]] = {
    "/v1/chat/completions": {
        "post": {
            "operationId": "OpenAI.CreateChatCompletion",
            "tags": ["OpenAI"],
            "summary": "Answer a chat, streamed or not",
            "description": "OpenAI's chat completions. Unless `store` is false, the chat becomes a conversation whose "
            "answer is written to its end even if the caller leaves; the headers `x-parley-conversation` and "
            "`x-parley-turn` name it. The answer's citations stand in the member `parley` of the message, "
            "or of the last chunk that has a choice. Conversations hold text: a chat with images, tools, thoughts or a "
            "format is answered and forgotten, as with `store: false`. Audio, several choices and log probabilities "
            "are refused by name.",
            "parameters": [
                _KNOWLEDGE_BASE,
                _CONVERSATION,
                {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "maxLength": 128}},
            ],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "properties": {
                                "model": {
                                    "type": "string",
                                    "description": "`<provider>/<model>`; `default` for the platform's.",
                                },
                                "messages": {"type": "array", "items": {"type": "object"}},
                                "stream": {"type": "boolean"},
                                "stream_options": {
                                    "type": "object",
                                    "properties": {"include_usage": {"type": "boolean"}},
                                },
                                "store": {"type": "boolean", "default": True},
                                "knowledge_base_id": {"type": "string"},
                                "temperature": {"type": "number"},
                                "top_p": {"type": "number"},
                                "max_tokens": {"type": "integer"},
                                "max_completion_tokens": {"type": "integer"},
                                "stop": {"type": ["string", "array"], "items": {"type": "string"}},
                                "seed": {"type": "integer"},
                                "tools": {"type": "array", "items": {"type": "object"}},
                                "tool_choice": {"type": ["string", "object"]},
                                "parallel_tool_calls": {"type": "boolean"},
                                "response_format": {"type": "object"},
                                "reasoning_effort": {"type": "string"},
                            },
                            "required": ["model", "messages"],
                        }
                    }
                },
            },
            "responses": {
                "200": {
                    "description": "A chat completion, or with `stream` its chunks.",
                    "content": {"application/json": {}, "text/event-stream": {}},
                },
                "default": _OPENAI_ERROR,
            },
        }
    },
    "/v1/embeddings": {
        "post": {
            "operationId": "OpenAI.CreateEmbeddings",
            "tags": ["OpenAI"],
            "summary": "Vectors of texts",
            "description": "OpenAI's embeddings, by the platform's own encoder: vectors of length 1, which no other "
            "model's can be compared with. Any other model is refused, and so are tokens instead of text, texts of "
            "more than 8,000 characters, and another number of dimensions than the encoder's.",
            "requestBody": _body(
                {
                    "model": {
                        "type": "string",
                        "description": "An encoder's name, with its revision or without; `default` for the platform's.",
                    },
                    "input": {
                        "oneOf": [
                            {"type": "string"},
                            {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2048},
                        ]
                    },
                    "encoding_format": {"enum": ["float", "base64"], "default": "float"},
                    "dimensions": {"type": "integer"},
                },
                ["model", "input"],
            ),
            "responses": {
                "200": {"description": "A list.", "content": {"application/json": {}}},
                "default": _OPENAI_ERROR,
            },
        }
    },
    "/v1/models": {
        "get": {
            "operationId": "OpenAI.ListModels",
            "tags": ["OpenAI"],
            "summary": "The models that can be asked, the default first",
            "responses": {
                "200": {"description": "A list.", "content": {"application/json": {}}},
                "default": _OPENAI_ERROR,
            },
        }
    },
    "/v1/models/{model}": {
        "get": {
            "operationId": "OpenAI.GetModel",
            "tags": ["OpenAI"],
            "summary": "One model",
            "parameters": [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}],
            "responses": {
                "200": {"description": "The model.", "content": {"application/json": {}}},
                "default": _OPENAI_ERROR,
            },
        }
    },
    "/anthropic/v1/messages": {
        "post": {
            "operationId": "Anthropic.CreateMessage",
            "tags": ["Anthropic"],
            "summary": "Answer a talk, streamed or not",
            "description": "Anthropic's messages, stored by nobody: text, images, tools, thinking and JSON schemas, by "
            "any model of the platform. What is Parley's own stands in the member `parley` of the message, or of the "
            "event `message_delta`. Documents, the vendor's own tools, files and answers that the caller begins are "
            "refused by name; hints about caches change nothing.",
            "requestBody": _body(
                _ANTHROPIC_PROPERTIES
                | {
                    "max_tokens": {"type": "integer", "minimum": 1},
                    "stream": {"type": "boolean"},
                    "stop_sequences": {"type": "array", "items": {"type": "string"}, "maxItems": 4},
                    "temperature": {"type": "number"},
                    "top_p": {"type": "number"},
                },
                ["model", "messages", "max_tokens"],
            ),
            "responses": {
                "200": {
                    "description": "A message, or with `stream` its events.",
                    "content": {"application/json": {}, "text/event-stream": {}},
                },
                "default": _ANTHROPIC_ERROR,
            },
        }
    },
    "/anthropic/v1/messages/count_tokens": {
        "post": {
            "operationId": "Anthropic.CountTokens",
            "tags": ["Anthropic"],
            "summary": "What a talk would cost to read",
            "description": "An estimate by characters, on the safe side; the header `x-parley-estimated` says so. "
            "Nothing is asked of a provider.",
            "requestBody": _body(_ANTHROPIC_PROPERTIES, ["model", "messages"]),
            "responses": {
                "200": {
                    "description": "The count.",
                    "content": {
                        "application/json": {
                            "schema": {"type": "object", "properties": {"input_tokens": {"type": "integer"}}}
                        }
                    },
                },
                "default": _ANTHROPIC_ERROR,
            },
        }
    },
    "/anthropic/v1/models": {
        "get": {
            "operationId": "Anthropic.ListModels",
            "tags": ["Anthropic"],
            "summary": "The models that can be asked, the default first",
            "parameters": [
                {"name": "limit", "in": "query", "schema": _ANTHROPIC_LIMIT},
                {"name": "after_id", "in": "query", "schema": {"type": "string"}},
                {"name": "before_id", "in": "query", "schema": {"type": "string"}},
            ],
            "responses": {
                "200": {"description": "A page.", "content": {"application/json": {}}},
                "default": _ANTHROPIC_ERROR,
            },
        }
    },
    "/anthropic/v1/models/{model}": {
        "get": {
            "operationId": "Anthropic.GetModel",
            "tags": ["Anthropic"],
            "summary": "One model",
            "parameters": [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}],
            "responses": {
                "200": {"description": "The model.", "content": {"application/json": {}}},
                "default": _ANTHROPIC_ERROR,
            },
        }
    },
}
