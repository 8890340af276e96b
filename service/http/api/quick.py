"""Routes that are called for every picture, without FastAPI's general way to their arguments.

FastAPI looks at the type of every option again for each request, which took a quarter of the front
process's time for a picture. The declarations stay, and with them the OpenAPI document.
"""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

from fastapi import Request, Response
from fastapi.routing import APIRoute

from service.http.api.options import Options, parse_query
from service.http.guards.auth import check_key

Endpoint = Callable[[Request, Options], Awaitable[Response]]


class PicturesRoute(APIRoute):
    """A route for pictures: its endpoint takes the request and the options of its query.

    Its router's dependency must be the scope ``predict``, and nothing else.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, which raises what FastAPI's would."""
        endpoint = cast(Endpoint, self.endpoint)

        async def handle(request: Request) -> Response:
            await check_key(request, "predict")
            return await endpoint(request, parse_query(request.query_params.multi_items()))

        return handle
