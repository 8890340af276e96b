"""Why a picture is refused."""

ACCEPTED = "PNG, JPEG, WebP, BMP, GIF, TIFF, and binary PBM, PGM and PPM"


class PictureError(ValueError):
    """A picture is refused: the message says what was wrong and what to do."""


class NotAPicture(PictureError):  # noqa: N818 - the name of the problem that the API reports
    """The bytes are not a picture, not in an accepted format, or broken or truncated."""

    def __init__(self, found: str) -> None:
        super().__init__(f"Not a picture that can be read: {found}. Accepted are {ACCEPTED}.")


class TooManyPixels(PictureError):  # noqa: N818
    """The header states ``pixels`` (width × height), more than ``limit``; nothing was decoded."""

    def __init__(self, pixels: int, limit: int) -> None:
        super().__init__(
            f"The picture has {pixels:,} pixels (width × height); at most {limit:,} are accepted. "
            "Send it smaller."
        )
        self.pixels, self.limit = pixels, limit


class CannotCertifyPicture(PictureError):  # noqa: N818
    """The picture's pixels would have to be altered first, or it has several frames."""

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(f"The picture cannot be certified as sent: {found}. {remedy}")
