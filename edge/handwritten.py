"""What the OpenAPI document says about the routes that no contract derives."""

from typing import Any, Final

_ERROR: Final = {
    "description": "A problem (RFC 9457).",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
_OPENAI_ERROR: Final = {
    "description": "An error in OpenAI's form.",
    "content": {"application/json": {"schema": {"type": "object", "properties": {"error": {"type": "object"}}}}},
}

TAGS: Final = (
    {
        "name": "Session",
        "description": "Signing in on the page: the session lives in a cookie that no script can read.",
    },
    {
        "name": "OpenAI",
        "description": "The part of OpenAI's API that the official SDKs use unmodified: set their base URL to `/v1` of "
        "this host and their API key to one of Parley.",
    },
)

# Any: JSON, as deep as OpenAPI is.
PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "description": "Why a request failed (RFC 9457).",
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "description": "Documentation of the reason."},
        "title": {"type": "string", "description": "The status in words."},
        "status": {"type": "integer", "description": "HTTP status."},
        "detail": {"type": "string", "description": "What happened, for people."},
        "request_id": {"type": "string", "description": "Finds the request in the operator's log."},
        "metadata": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "What the reason's description names.",
        },
        "errors": {
            "type": "array",
            "description": "The fields at fault.",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "description": {"type": "string"}},
            },
        },
        "retry_after_s": {"type": "number", "description": "Seconds after which a repeat makes sense."},
    },
    "required": ["type", "title", "status", "detail", "reason", "request_id"],
}

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

HANDWRITTEN: Final[dict[str, dict[str, Any]]] = {
    "/api/v1/auth/session": {
        "post": {
            "operationId": "Session.Begin",
            "tags": ["Session"],
            "summary": "Sign in with a cookie",
            "description": "Checks an e-mail address and a password, and keeps the session in an HttpOnly cookie. "
            "Requests that change something and carry the cookie must come from a page of this site.",
            "security": [],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "properties": {"email": {"type": "string"}, "password": {"type": "string"}},
                            "required": ["email", "password"],
                            "additionalProperties": False,
                        }
                    }
                },
            },
            "responses": {
                "201": {
                    "description": "Who signed in.",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/auth.User"}}},
                },
                "default": _ERROR,
            },
        },
        "delete": {
            "operationId": "Session.End",
            "tags": ["Session"],
            "summary": "Sign out",
            "description": "Ends the session of the cookie, and removes the cookie.",
            "responses": {"204": {"description": "Done."}, "default": _ERROR},
        },
    },
    "/api/v1/knowledge_bases/{knowledge_base_id}/documents": {
        "post": {
            "operationId": "DocumentService.UploadDocument",
            "tags": ["DocumentService"],
            "summary": "UploadDocument stores a file and queues it for the index",
            "description": "The same bytes under the same name change nothing and return the document that is there; "
            "other bytes under the same name become its next version. Refused, nothing is stored: "
            "`DOCUMENT_TOO_LARGE`, `DOCUMENT_UNSUPPORTED`, `INVALID_ARGUMENT`.\n\nScopes: `knowledge:write`.",
            "parameters": [
                {"name": "knowledge_base_id", "in": "path", "required": True, "schema": {"type": "string"}},
            ],
            "requestBody": {
                "required": True,
                "content": {
                    "multipart/form-data": {
                        "schema": {
                            "type": "object",
                            "properties": {"file": {"type": "string", "format": "binary"}},
                            "required": ["file"],
                        }
                    }
                },
            },
            "responses": {
                "201": {
                    "description": "The stored document.",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/retrieval.Document"}}},
                },
                "default": _ERROR,
            },
        }
    },
    "/v1/chat/completions": {
        "post": {
            "operationId": "OpenAI.CreateChatCompletion",
            "tags": ["OpenAI"],
            "summary": "Answer a chat, streamed or not",
            "description": "OpenAI's chat completions. Unless `store` is false, the chat becomes a conversation whose "
            "answer is written to its end even if the caller leaves; the headers `x-parley-conversation` and "
            "`x-parley-turn` name it. The answer's citations stand in the member `parley` of the message, "
            "or of the last chunk that has a choice. Tools, images, audio, several choices and log probabilities are "
            "refused by name.",
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
}
