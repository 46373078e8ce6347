"""Reads request bodies within limits: nothing is decoded that is too large, and what is wrong is named."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator
from typing import TypeVar

import msgspec
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from kdcube.gateway.errors import BadRequest, TooLarge, TooSlow
from kdcube.protocol.errors import InvalidInput

T = TypeVar("T")

GRACE_S = 10.0
MIN_BYTES_PER_S = 16 * 1024
"""A body may take GRACE_S and what it takes at this rate."""
MULTIPART = "multipart/form-data"
_WHERE = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<where>.*)`)?$", re.DOTALL)


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body. Raises TooLarge as soon as it is clear that there are more than ``max_bytes``, and TooSlow for one that
    trickles.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    began = time.monotonic()
    try:
        async with asyncio.timeout(GRACE_S) as patience:
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise _too_large(max_bytes)
                left_s = began + GRACE_S + len(body) / MIN_BYTES_PER_S - time.monotonic()
                patience.reschedule(asyncio.get_running_loop().time() + left_s)
    except TimeoutError:
        raise TooSlow from None
    return bytes(body)


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"The body has more than {max_bytes} bytes.")


def decode(data: bytes, decoder: msgspec.json.Decoder[T], name: str = "body") -> T:
    """``data`` as JSON of the decoder's shape. Raises BadRequest for what is no JSON, else InvalidInput."""
    try:
        return decoder.decode(data)
    except UnicodeDecodeError:
        raise BadRequest("The body is not valid UTF-8.", error="invalid_utf8", field=name) from None
    except msgspec.ValidationError as error:
        match = _WHERE.match(str(error))
        assert match is not None
        raise InvalidInput(match["where"] or name, match["what"]) from None
    except (msgspec.DecodeError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BadRequest(f"The body is not valid JSON: {reason}.", error="malformed_json", field=name) from None


async def read_json(request: Request, decoder: msgspec.json.Decoder[T], max_bytes: int) -> T:
    """The body as JSON, whatever content type it claims."""
    return decode(await read_body(request, max_bytes), decoder)


async def read_message(request: Request, decoder: msgspec.json.Decoder[T], max_bytes: int) -> T:
    """JSON, or a form whose field ``message`` holds that JSON as a string."""
    body = await read_body(request, max_bytes)
    if not request.headers.get("content-type", "").startswith(MULTIPART):
        return decode(body, decoder)

    async def whole() -> AsyncGenerator[bytes]:
        yield body

    try:
        form = await MultiPartParser(request.headers, whole(), max_fields=32, max_part_size=max_bytes).parse()
    except (MultiPartException, UnicodeDecodeError) as error:
        raise BadRequest(f"The form cannot be read: {error}", error="malformed_form", field="body") from None
    try:
        return decode(await _message_of(form, body), decoder, "message")
    finally:
        await form.close()


async def _message_of(form: FormData, body: bytes) -> bytes:
    for name, part in form.multi_items():
        if name != "message" and isinstance(part, UploadFile) and (part.filename or part.size):
            raise BadRequest("Attachments are not supported yet.", error="attachments_not_supported", field=name)
    message = form.get("message")
    if message is None:
        raise InvalidInput("message", "the form has no field message")
    if isinstance(message, UploadFile):
        return await message.read()
    text = message.encode()
    if text not in body:  # the parser reads as Latin-1 what is no UTF-8
        raise BadRequest("The field is not valid UTF-8.", error="invalid_utf8", field="message")
    return text
