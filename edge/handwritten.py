"""What the OpenAPI document says about the routes that no contract derives."""

from typing import Any, Final

from edge.compat.documented import COMPAT_PATHS, COMPAT_TAGS

_ERROR: Final = {
    "description": "A problem (RFC 9457).",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
TAGS: Final = (
    {
        "name": "Session",
        "description": "Signing in on the page: the session lives in a cookie that no script can read.",
    },
    *COMPAT_TAGS,
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
    **COMPAT_PATHS,
}
