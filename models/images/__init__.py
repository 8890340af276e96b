"""Bytes of a picture file to pixels, with limits: for the service, training and evaluation alike.

The certificate speaks of the pixels that this module yields, so it never changes a pixel value in
a way that could be avoided. There is no scaling (nor JPEG's draft mode), 16 bits are never cut to
8, and embedded colour profiles are ignored: pixels count as they are coded. What is left:

- 1-, 2- and 4-bit greys are spread over 0 … 255, which is exact, and the 5 and 6 bits of a 16-bit
  BMP's channels, which is rounded; palettes become RGB. GIF and BMP have no greyscale of their
  own: a palette that is the grey ramp itself counts as L there.
- Alpha, a transparent colour or a transparent palette entry is composited over white, in integers
  and rounded once: 255 − ((255 − v)·a + 127) div 255. No ties can occur, since 255 is odd.
  That holds for the alpha mask of a BMP without bit fields as well, as browsers write it.
- EXIF orientation is applied; orientation that only XMP states is not, as in browsers.
- Pixels that a file leaves out, though it is complete in form, are filled as viewers do: zero, or
  in a JPEG what the last ones suggest.
- JPEG in YCbCr becomes RGB. Of a JPEG that carries further pictures (depth, gain map) the first
  counts, as in every viewer.

Accepted are PNG, JPEG, WebP, BMP, GIF and TIFF (one picture each) and binary PBM, PGM and PPM.
Pillow reads some forty formats more; each is another parser that strangers' bytes would reach,
most of them in C, for pictures that hardly anyone sends. For the same reason TIFF is limited to
the compressions none, LZW, Deflate and PackBits, and BMP to none.

Before Pillow sees a file, a reader for its format walks the outer structure, refuses what the
limits or the certificate refuse, and hands on only the parts that make the pixels (BMP and WebP,
which Pillow reads without looking round, go on as they are). So size and frames are known before
anything is allocated, Pillow meets no text, XMP or profile, what follows the picture's end is
never read, and time stays in proportion to the bytes and the pixels, however many tiny parts a
hostile file has. Pillow's warnings have no cause left; libtiff alone writes a line to standard
error about a damaged strip, which nothing in Python can stop.

The errors::

    PictureError
    ├── NotAPicture             no picture, a format not accepted, or a broken or truncated one
    ├── TooManyPixels           a picture beyond ``Limits.max_pixels``
    └── CannotCertifyPicture    a picture, but not one whose pixels could be certified as sent

:func:`decode` raises no others, whatever the bytes, but MemoryError. It keeps no state and may run
in many threads.
"""

from models.images.decoding import (
    MOST_PIXELS,
    Limits,
    Picture,
    PictureShape,
    Size,
    decode,
    measure,
    over_white,
    to_png,
)
from models.images.errors import (
    ACCEPTED,
    CannotCertifyPicture,
    NotAPicture,
    PictureError,
    TooManyPixels,
)
from models.images.files import MOST_PARTS, MOST_SCANS
from models.images.folders import (
    SUFFIXES,
    Found,
    PictureFileError,
    find_pictures,
    is_hidden,
    read_picture,
    report_others,
)

__all__ = [
    "ACCEPTED",
    "MOST_PARTS",
    "MOST_PIXELS",
    "MOST_SCANS",
    "SUFFIXES",
    "CannotCertifyPicture",
    "Found",
    "Limits",
    "NotAPicture",
    "Picture",
    "PictureError",
    "PictureFileError",
    "PictureShape",
    "Size",
    "TooManyPixels",
    "decode",
    "find_pictures",
    "is_hidden",
    "measure",
    "over_white",
    "read_picture",
    "report_others",
    "to_png",
]
