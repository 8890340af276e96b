"""Certified predictions from a PixelDP service.

    from pixeldp_client import Client

    with Client("http://127.0.0.1:8000") as client:
        prediction = client.predict("7.png", target=0.5)

:class:`AsyncClient` is the same with ``await``. Every error is a :class:`PixelDPError`.
"""

from pixeldp_client._async import AsyncClient
from pixeldp_client._client import Client
from pixeldp_client._errors import (
    BadRequest,
    NotRobust,
    PixelDPError,
    ServiceError,
    Timeout,
    TooBusy,
    Unauthorized,
    Unavailable,
    Unreachable,
)
from pixeldp_client._pictures import Image
from pixeldp_client._requests import Options
from pixeldp_client._results import (
    Budget,
    Certain,
    Certificate,
    Compute,
    Label,
    Look,
    Model,
    ModelName,
    Noise,
    Paper,
    Picture,
    Prediction,
    Preprocessing,
    Range,
    Restart,
    Score,
    Sticker,
    StickerPrediction,
    Timing,
)
from pixeldp_client._retries import Retries

__all__ = [
    "AsyncClient",
    "BadRequest",
    "Budget",
    "Certain",
    "Certificate",
    "Client",
    "Compute",
    "Image",
    "Label",
    "Look",
    "Model",
    "ModelName",
    "Noise",
    "NotRobust",
    "Options",
    "Paper",
    "Picture",
    "PixelDPError",
    "Prediction",
    "Preprocessing",
    "Range",
    "Restart",
    "Retries",
    "Score",
    "ServiceError",
    "Sticker",
    "StickerPrediction",
    "Timeout",
    "Timing",
    "TooBusy",
    "Unauthorized",
    "Unavailable",
    "Unreachable",
]
