"""What the OpenAPI document says that FastAPI does not know: the data routes, and the one shape of errors."""

from __future__ import annotations

from typing import Any

from dsx.protocol.frames import FRAMES_TYPE

_STRING = {"type": "string"}


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": _STRING, "description": description}


_DATASET = {"name": "dataset", "in": "path", "required": True, "schema": _STRING, "description": "Name of the dataset."}
_PARAMETERS = [
    _DATASET,
    {
        "name": "path",
        "in": "path",
        "required": True,
        "schema": _STRING,
        "description": "Path of the entry, as in the manifest; its slashes may be sent as they are or as %2F.",
    },
    {
        "name": "revision",
        "in": "query",
        "required": False,
        "schema": _STRING,
        "description": "Answer 409 unless the entry still is what this revision says.",
    },
    _header("If-Match", "Answer 412 unless the entry's ETag is one of these."),
    _header("If-None-Match", "Answer 304 if the entry's ETag is one of these."),
    _header("If-Modified-Since", "Answer 304 if the entry is not newer; If-None-Match goes before it."),
    _header("Want-Repr-Digest", "sha-256=10 asks for the SHA-256 of the whole entry; a HEAD always gets it then."),
]

_PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetail"}}}

PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"description": "A name that cannot be right.", "content": _PROBLEM},
    401: {"description": "No key, or a wrong one.", "content": _PROBLEM},
    404: {"description": "No such dataset.", "content": _PROBLEM},
    422: {"description": "A parameter that cannot be right.", "content": _PROBLEM},
    500: {"description": "A folder is there and could not be read.", "content": _PROBLEM},
}
_BYTES = {"*/*": {"schema": {"type": "string", "format": "binary"}}}


def _operation(method: str, summary: str, extra: list[dict[str, Any]], responses: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "operationId": f"{method}_file",
        "tags": ["files"],
        "security": [{"ApiKey": []}],
        "parameters": _PARAMETERS + extra,
        "responses": responses
        | {
            "304": {"description": "The client's copy is still right."},
            "400": {"description": "The path is not one inside a dataset.", "content": _PROBLEM},
            "401": {"description": "No key, or a wrong one.", "content": _PROBLEM},
            "404": {"description": "No such dataset or entry.", "content": _PROBLEM},
            "409": {
                "description": "The entry is being written, or is no longer what the revision says.",
                "content": _PROBLEM,
            },
            "412": {"description": "The entry is another version than the one asked for.", "content": _PROBLEM},
            "500": {"description": "The entry is there and could not be read.", "content": _PROBLEM},
        },
    }


FILE_PATH: dict[str, Any] = {
    "get": _operation(
        "get",
        "Download an entry",
        [
            _header("Range", "One range of bytes, like bytes=0-99; anything else is ignored."),
            _header("If-Range", "Answer the range only if this is the entry's ETag, else the whole entry."),
        ],
        {
            "200": {"description": "The whole entry.", "content": _BYTES},
            "206": {"description": "The bytes of the range.", "content": _BYTES},
            "416": {"description": "The range starts past the end of the entry.", "content": _PROBLEM},
        },
    ),
    "head": _operation("head", "Describe an entry", [], {"200": {"description": "The headers that a GET would have."}}),
}

BATCH_PATH: dict[str, Any] = {
    "post": {
        "summary": "Download many entries",
        "description": "The answer is a stream of frames; docs/http-api.md has its layout.",
        "operationId": "post_batch",
        "tags": ["files"],
        "security": [{"ApiKey": []}],
        "parameters": [_DATASET],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/BatchRequest"}}},
        },
        "responses": {
            "200": {
                "description": "A frame for each entry, in the order of the request, and an end frame.",
                "content": {FRAMES_TYPE: {"schema": {"type": "string", "format": "binary"}}},
            },
            "400": {"description": "The dataset's name cannot be right.", "content": _PROBLEM},
            "401": {"description": "No key, or a wrong one.", "content": _PROBLEM},
            "404": {"description": "No such dataset or revision.", "content": _PROBLEM},
            "413": {"description": "More entries, or more JSON, than a batch may have.", "content": _PROBLEM},
            "422": {"description": "Not what a batch request is.", "content": _PROBLEM},
            "429": {"description": "The hub's memory is taken by other batches; see Retry-After.", "content": _PROBLEM},
            "503": {"description": "The dataset's disk is not there.", "content": _PROBLEM},
        },
    }
}
