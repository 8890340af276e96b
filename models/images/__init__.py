"""From the bytes of a picture file to pixels, within limits: for service, training and evaluation.

The certificate is about the pixels that this module yields, so it never changes a pixel value if
that can be avoided. It does not scale (or use JPEG's draft mode), never reduces 16 bits to 8, and
ignores embedded colour profiles: pixels count as they are coded. Only these changes remain:

- 1-, 2- and 4-bit greys are spread over 0 … 255, which is exact, and the 5 and 6 bits of a 16-bit
  BMP's channels, which is rounded; palettes become RGB. GIF and BMP have no greyscale of their
  own: a palette that is the grey ramp itself counts as L there.
- Alpha, a transparent colour or a transparent palette entry is composited over white, in integers
  and rounded once: 255 − ((255 − v)·a + 127) div 255. No ties can occur, since 255 is odd.
  That holds for the alpha mask of a BMP without bit fields as well, as browsers write it.
- EXIF orientation is applied; orientation that only XMP states is not, as in browsers.
- Pixels that a formally complete file omits are filled as in viewers: with zero, or in a JPEG by
  continuing the last ones.
- JPEG in YCbCr becomes RGB. Of a JPEG with further pictures (depth, gain map), the first counts, as
  in every viewer.

Accepted are PNG, JPEG, WebP, BMP, GIF and TIFF (one picture each) and binary PBM, PGM and PPM.
Pillow reads about forty more formats. Each would expose another parser, most of them in C, to
strangers' bytes, for pictures that hardly anyone sends. For the same reason TIFF is limited to no
compression, LZW, Deflate and PackBits, and BMP to no compression.

Before Pillow sees a file, a reader for its format walks the outer structure, refuses what exceeds
the limits or cannot be certified, and passes on only the parts that make the pixels (BMP and WebP
files are passed on as they are, because Pillow reads nothing else in them). So size and frames are
known before anything is allocated, Pillow never sees text, XMP or profiles, bytes after the
picture's end are never read, and time stays in proportion to the bytes and the pixels, however many
tiny parts a hostile file has. Nothing is left for Pillow to warn about. Only libtiff writes a line
to standard error about a damaged strip, which Python cannot prevent.

The errors::

    PictureError
    ├── NotAPicture             no picture, a format not accepted, or a broken or truncated one
    ├── TooManyPixels           a picture beyond ``max_pixels``
    └── CannotCertifyPicture    a picture, but not one whose pixels could be certified as sent

:func:`decode` raises no other exception except MemoryError, whatever the bytes. It keeps no state
and may run in many threads.
"""
