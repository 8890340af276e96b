"""``HEAD``: whatever ``GET`` answers, without its body, as RFC 9110, section 9.3.2, has it."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Head:
    """Has every route that takes ``GET`` take ``HEAD``.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        # The very same scope, so that those outside learn the route from it.
        scope["method"] = "GET"
        try:
            await self._app(scope, receive, send_head)
        finally:
            scope["method"] = "HEAD"
