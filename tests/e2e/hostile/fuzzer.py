"""Valid requests with some damage: pictures, JSON, frames, options, headers.

The same seed always makes the same requests.
"""

import base64
import copy
import gzip
import json
import math
import random
import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

from service.http.api.options import Options
from tests.e2e.hostile.corpus import corpus, valid
from tests.models.images.pictures import png_repaired

INFER = "/v2/models/mnist-cnn/infer"
NUMBERS: list[Any] = [
    *(0, -1, 1, 63, 64, 255, 256, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 10**30, -(2**63)),
    *(0.5, 1 - 1e-9, 1e-300, 1e308, math.nan, math.inf, -math.inf),
]
WORDS: list[Any] = ["", "l2", "linf", "robust", "high", "all", "mnist-cnn", "mnist-cnn:1", "true"]
WORDS += ["sticker", "norm", "0,7"]
WORDS += ["\0", "é" * 50, "../../etc/passwd", "' OR 1=1 --", "%00", "{{7*7}}", "A" * 3000, "٣"]
OTHERS: list[Any] = [None, True, False, [], {}, [[]], {"a": {}}]
OPTIONS = [*Options.model_fields, "nothing"]
TYPES = ["image/png", "image/jpeg", "application/octet-stream", "image/../../x", "text/plain"]
TYPES += ["application/json; charset=utf-16", "multipart/form-data", ""]
TYPES += ["multipart/form-data; boundary=\xff", "application/json", "image/png; q=" + "a" * 999]
# What these headers say need not be true.
HEADERS = ["content-encoding", "accept", "accept-encoding", "range", "if-none-match", "expect"]
HEADERS += ["x-forwarded-prefix"]
HEADERS += ["x-request-id", "traceparent", "x-forwarded-for", "x-http-method-override", "cookie"]


@dataclass
class Call:
    """One request."""

    method: str
    path: str
    content: bytes
    headers: dict[str, str]
    query: list[tuple[str, str]] = field(default_factory=list)


class Fuzzer:
    """Makes requests, one after another.

    Args:
        seed: decides every choice.
    """

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        self._pictures = list(valid().values())
        # The large ones take long, and another test posts them whole.
        self._odd = [one.content for one in corpus().values() if len(one.content) < 20_000]

    def call(self) -> Call:
        """Return the next request."""
        makers = [self._raw, self._raw, self._json, self._form, self._batch, self._stream]
        makers += [self._frame, self._frame, self._frame_json, self._anything]
        makers += [self._packed, self._shown]
        made = self._random.choice(makers)()
        if self._random.random() < 0.1:
            name = self._random.choice(HEADERS)
            made.headers[name] = self._header()
        return made

    def _raw(self) -> Call:
        kind = self._random.choice(TYPES) if self._chance(0.1) else "image/png"
        return Call("POST", "/predict", self._picture(), {"content-type": kind}, self._query())

    def _packed(self) -> Call:
        made = self._random.choice([self._raw, self._json, self._form, self._frame])()
        encoding = self._random.choice(["gzip", "gzip", "deflate", "br", "gzip, gzip", "\xff"])
        pack = zlib.compress if encoding == "deflate" else gzip.compress
        content = b"".join(pack(part) for part in (made.content[:99], made.content[99:]))
        return replace(
            made,
            content=self._damaged(content, 0.5),
            headers=made.headers | {"content-encoding": encoding},
        )

    def _shown(self) -> Call:
        return Call("POST", "/page/picture", self._picture(), {"content-type": "image/png"})

    def _stream(self) -> Call:
        headers = {"content-type": "image/png"}
        return Call("POST", "/predict/stream", self._picture(), headers, self._query())

    def _json(self) -> Call:
        encode = self._random.choice(
            [base64.b64encode, base64.b64encode, base64.urlsafe_b64encode, base64.encodebytes]
        )
        start = self._random.choice(
            ["", "", "data:image/png;base64,", "data:,", "data:" + "a" * 300]
        )
        members: dict[str, Any] = {"image": start + encode(self._picture()).decode()}
        return self._posted_json("/predict", members | self._members())

    def _batch(self) -> Call:
        pictures = [self._picture() for _ in range(self._random.randrange(4))]
        images = [base64.b64encode(picture).decode() for picture in pictures]
        return self._posted_json("/predict/batch", {"images": images} | self._members())

    def _posted_json(self, path: str, members: dict[str, Any]) -> Call:
        content = self._damaged(json.dumps(members).encode(), 0.3)
        return Call("POST", path, content, {"content-type": "application/json"})

    def _form(self) -> Call:
        parts = b""
        for _ in range(self._random.randrange(3)):
            name = self._random.choice(["image", "image", "image", "", 'a"b', "images"])
            file = self._random.choice(['filename="a.png"', "filename*=UTF-8''%ff", "", "x*"])
            head = f'--x\r\nContent-Disposition: form-data; name="{name}"; {file}\r\n\r\n'
            parts += head.encode() + self._picture() + b"\r\n"
        content = self._damaged(parts + b"--x--\r\n", 0.4)
        path = self._random.choice(["/predict", "/predict/batch"])
        headers = {"content-type": "multipart/form-data; boundary=x"}
        return Call("POST", path, content, headers, self._query())

    def _frame(self) -> Call:
        """A request body of the Open Inference Protocol: JSON, then a tensor's bytes."""
        count = self._random.choice([1, 1, 1, 2, 3])
        if self._chance(0.5):
            name, kind, shape = "IMAGE_BYTES", "BYTES", [count, 1]
            pictures = [self._picture() for _ in range(count)]
            blob = b"".join(struct.pack("<I", len(one)) + one for one in pictures)
        else:
            name, kind, shape = "IMAGE", "UINT8", [count, 28, 28, 1]
            blob = self._random.randbytes(count * 784)
        tensor: dict[str, Any] = {"name": name, "datatype": kind, "shape": shape}
        tensor["parameters"] = {"binary_data_size": len(blob)}
        head = json.dumps(self._inference(tensor)).encode()
        length = str(len(head))
        if self._chance(0.2):
            length = self._random.choice([str(len(head) + 1), "0", "-1", "x", "9" * 30, "1e3", ""])
        content = self._damaged(head, 0.2) + self._damaged(blob, 0.3)
        return Call("POST", INFER, content, {"inference-header-content-length": length})

    def _frame_json(self) -> Call:
        data = [self._random.randrange(256) for _ in range(784)]
        for _ in range(self._random.choice([0, 0, 1, 3])):
            data[self._random.randrange(784)] = self._value()
        tensor = {"name": "IMAGE", "datatype": "UINT8", "shape": [1, 28, 28, 1], "data": data}
        content = self._damaged(json.dumps(self._inference(tensor)).encode(), 0.2)
        return Call("POST", INFER, content, {"content-type": "application/json"})

    def _inference(self, tensor: dict[str, Any]) -> dict[str, Any]:
        body: dict[str, Any] = {"inputs": [tensor], "parameters": {"max_draws": 64}}
        for _ in range(self._random.choice([0, 0, 1, 2])):
            where = self._random.choice([body, tensor, body["parameters"]])
            if isinstance(where, dict):  # it may already have been replaced
                where[self._random.choice([*where, "id", "outputs", "target"])] = self._value()
        if self._chance(0.1) and isinstance(tensor.get("shape"), list):
            tensor["shape"] = [self._random.choice(NUMBERS) for _ in range(4)]
        return body

    def _anything(self) -> Call:
        method = self._random.choice(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "BREW"])
        paths = ["/", "/predict", "/models", "/models/mnist-cnn", "/metrics", "/docs", "/v2"]
        paths += ["/v2/models/mnist-cnn", "/v2/repository/index", "/health/ready", "/problems/x"]
        paths += ["/page/../../etc/passwd", "/page/%2e%2e/app.py", "//", "/%00", "/models/%ff"]
        path = self._random.choice(paths)
        if self._chance(0.2):
            path += "/" + base64.urlsafe_b64encode(self._random.randbytes(9)).decode()
        return Call(method, path, self._random.randbytes(self._random.randrange(50)), {})

    def _members(self) -> dict[str, Any]:
        options: dict[str, Any] = {"max_draws": 64}
        for _ in range(self._random.choice([0, 0, 1, 2])):
            options[self._random.choice(OPTIONS)] = self._value()
        return options

    def _query(self) -> list[tuple[str, str]]:
        count = self._random.choice([0, 0, 0, 1, 2])
        some = [(self._random.choice(OPTIONS), str(self._value())) for _ in range(count)]
        return [("max_draws", "64"), *some]

    def _value(self) -> Any:
        # A copy, because members may be put into it, even itself.
        return copy.deepcopy(self._random.choice(self._random.choice([NUMBERS, WORDS, OTHERS])))

    def _header(self) -> str:
        printable = "".join(map(chr, range(33, 127)))
        length = self._random.choice([0, 1, 20, 2000])
        return "".join(self._random.choices(printable, k=length))

    def _picture(self) -> bytes:
        if self._chance(0.1):
            return self._random.choice(self._odd)
        damaged = self._damaged(self._random.choice(self._pictures), 0.9)
        # With correct checksums, damage reaches deeper into the decoder.
        return png_repaired(damaged) if damaged[:4] == b"\x89PNG" and self._chance(0.5) else damaged

    def _damaged(self, content: bytes, chance: float) -> bytes:
        if not content or not self._chance(chance):
            return content
        some = self._random
        data = bytearray(content)
        for _ in range(some.choice([1, 1, 2, 8])):
            at = some.randrange(len(data) + 1)
            match some.randrange(7):
                case 0 if at < len(data):
                    data[at] ^= 1 << some.randrange(8)
                case 1:
                    data[at : at + 1] = some.randbytes(1)
                case 2:
                    del data[at:]
                case 3:
                    del data[at : at + some.randrange(1, 20)]
                case 4:
                    data[at:at] = some.randbytes(some.randrange(1, 20))
                case 5:
                    number = some.choice([0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**32 - 1])
                    form = some.choice([">I", "<I"])
                    data[at : at + 4] = struct.pack(form, number)
                case _:
                    other = some.choice(self._pictures)
                    data[at:] = other[some.randrange(len(other)) :]
            if not data:
                break
        return bytes(data)

    def _chance(self, chance: float) -> bool:
        return self._random.random() < chance
