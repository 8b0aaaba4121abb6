"""Any error becomes one JSON shape (RFC 9457), whichever route it comes from."""

from __future__ import annotations

import http
from collections.abc import Mapping
from typing import NoReturn

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from dsx.errors import PROBLEMS, DsxError
from dsx.protocol.models import PROBLEM_TYPE, ProblemDetail
from dsx.protocol.text import shown

_CODES = {problem.error: code for code, problem in reversed(PROBLEMS.items())}


class ProblemError(DsxError):
    """A problem that is chosen by its code, where the class of an error does not decide it."""

    def __init__(self, code: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.headers = dict(headers or {})

    def __reduce__(self) -> tuple[type[ProblemError], tuple[str, str, dict[str, str]]]:
        return type(self), (self.code, str(self), self.headers)


def describe_error(error: DsxError) -> tuple[str, str, dict[str, str]]:
    """Return code, detail and headers of the answer that tells a client of ``error``."""
    if isinstance(error, ProblemError):
        return error.code, str(error), error.headers
    code = next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), "internal")
    headers = {} if error.retry_after_s is None else {"Retry-After": f"{error.retry_after_s:.0f}"}
    return code, str(error), headers


def format_problem(code: str, detail: str, request_id: str | None) -> tuple[int, bytes]:
    """Return status and JSON body of a problem."""
    status = PROBLEMS[code].status
    title = http.HTTPStatus(status).phrase
    problem = ProblemDetail(title=title, status=status, detail=detail, code=code, request_id=request_id)
    return status, problem.model_dump_json(exclude_none=True).encode()


def install_handlers(app: FastAPI) -> None:
    """Make every error of ``app`` a problem; what is nobody's mistake but ours goes on to the front door."""

    @app.exception_handler(DsxError)
    async def answer_error(request: Request, error: DsxError) -> Response:
        code, detail, headers = describe_error(error)
        return _response(request, code, detail, headers)

    @app.exception_handler(HTTPException)
    async def answer_http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 405:
            allowed = dict(error.headers or {}).get("Allow", "GET")
            headers = {"Allow": f"{allowed}, HEAD" if "HEAD" not in allowed else allowed}
            return _response(request, "method_not_allowed", _not_allowed(request), headers)
        if error.status_code == 404:
            return _response(request, "route_not_found", no_route(request.url.path), {})
        raise error

    @app.exception_handler(RequestValidationError)
    async def answer_invalid(request: Request, error: RequestValidationError) -> Response:
        mistakes = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        return _response(request, "invalid_request", f"the request is not valid: {mistakes}", {})


def raise_no_route(path: str) -> NoReturn:
    """Say that the hub has nothing at ``path``."""
    raise ProblemError("route_not_found", no_route(path))


def no_route(path: str) -> str:
    """Word the answer to a path that no route serves."""
    return f"this hub has nothing at {shown(path)}; /docs lists what it has"


def _not_allowed(request: Request) -> str:
    return f"{shown(request.url.path)} does not take {shown(request.method)}; see /docs"


def _response(request: Request, code: str, detail: str, headers: Mapping[str, str]) -> Response:
    status, body = format_problem(code, detail, request.scope["dsx.request_id"])
    return Response(body, status, dict(headers), media_type=PROBLEM_TYPE)
