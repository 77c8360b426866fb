"""The way of a portrait into a session: it is uploaded or picked, decoded, cropped, read by the network and shown."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from triportrait.core.errors import InputError
from triportrait.serve.live import uploads
from triportrait.serve.live.decoder_pool import DecoderPool
from triportrait.serve.live.inference import (
    EXAMPLES,
    PORTRAIT_PX,
    Engine,
    encode_jpeg,
    example_picture,
    examples,
)
from triportrait.serve.live.json_logs import fields
from triportrait.serve.live.refining import Refining, portrait_of
from triportrait.serve.live.sessions import Session
from triportrait.serve.live.worker import Worker, shut_down

logger = logging.getLogger(__name__)


class Portraits:
    """Prepare the portraits of all sessions; a session has one upload, one decoder and one face search at a time.

    Args:
        engine: crops faces and runs the network.
        worker: runs jobs on the network's thread.
        refining: knows who is refined.
    """

    def __init__(self, engine: Engine, worker: Worker, refining: Refining) -> None:
        self._engine, self._worker, self._refining = engine, worker, refining
        self._threads = ThreadPoolExecutor(1, "live-portraits")
        self.decoders = DecoderPool()

    def start(self) -> list[Future[None]]:
        """Start the decoders; return futures that are done when they are ready."""
        return self.decoders.start()

    def stop(self) -> None:
        """Stop, without waiting for work in progress."""
        self.decoders.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def join(self, within_s: float) -> bool:
        """Return whether all threads have ended within so many seconds."""
        return shut_down([self._threads], within_s)

    async def upload(
        self, session: Session, headers: Mapping[str, str], chunks: AsyncIterator[bytes]
    ) -> dict[str, Any]:
        """Receive a portrait from a page and show it; an upload of the same page that still runs is cancelled.

        Returns:
            The message to the page.

        Raises:
            Refused: it is too large, of another kind, or another one was chosen meanwhile.
            InputError: the picture cannot be used; the sentence says why.
        """
        uploads.check_head(headers)
        number = new_request(session)
        task = asyncio.create_task(self._take_upload(session, number, chunks))
        before, session.choice.upload = session.choice.upload, task
        if before is not None:
            before.cancel()
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
            if session.choice.upload is task:
                session.choice.upload = None
        if task.cancelled():
            raise uploads.Refused(409, "portrait: another one was chosen meanwhile, or its page was closed")
        return task.result()

    async def _take_upload(self, session: Session, number: int, chunks: AsyncIterator[bytes]) -> dict[str, Any]:
        body = await uploads.read_body(chunks)
        image = await self.decoders.decode(body, PORTRAIT_PX)
        message = await self._take(session, number, image, hashlib.sha256(body).hexdigest(), photo=True)
        if message is None:
            raise InputError("portrait: another one was chosen meanwhile, which is shown")
        return message

    async def take_example(self, session: Session, name: object) -> None:
        """Show a portrait of the package."""
        if not isinstance(name, str) or name not in examples():
            raise InputError(f"example: expected one of {', '.join(examples())}, got another; choose another")
        number = new_request(session)
        data = (EXAMPLES / f"{name}.jpg").read_bytes()
        image = await asyncio.get_running_loop().run_in_executor(self._threads, example_picture, name)
        message = await self._take(session, number, image, hashlib.sha256(data).hexdigest())
        if message is not None:
            session.tell({**message, "example": name})

    async def _take(
        self, session: Session, number: int, image: np.ndarray, sha256: str, photo: bool = False
    ) -> dict[str, Any] | None:  # fmt: skip
        """Crop a portrait, let the network read it, and show it.

        Args:
            session: the session that shows it.
            number: the number of the request, see `new_request`.
            image: uint8 [H, W, 3].
            sha256: of its file.
            photo: whether the page has sent it.

        Returns:
            The message to the page: a sentence, empty where all is well, the crop that the network sees, and whether
            it is refined; None where the portrait of a later request is shown already.
        """
        loop = asyncio.get_running_loop()
        async with session.choice.lock:  # portraits of others wait for at most one of this session
            if number < session.choice.number or session.closed:
                return None
            face, sentence = await loop.run_in_executor(self._threads, self._engine.crop_portrait, image)
            person, own = await loop.run_in_executor(
                self._threads, self._refining.person_of, session, face.crop
            )  # fmt: skip
            prepare = partial(self._refining.prepare, face, person)
            source = await asyncio.wrap_future(self._worker.on_network(prepare))
            portrait = portrait_of(source, self._engine.stamp.for_source(sha256))
            with session.recording_lock:  # so that no recording begins between the check and the change
                session.check_not_recorded()
                if number < session.choice.number:
                    return None
                session.choice.number = number
                self._worker.show(session, portrait)
            self._refining.took(session, portrait, person, own, photo)
            refined = self._refining.state(session)
        session.tell_neutral()
        jpeg = base64.b64encode(encode_jpeg(face.crop)).decode()
        height, width = image.shape[:2]
        logger.info(
            "portrait",
            extra=fields(session=session.id[:6], height=height, width=width, said=sentence, refined=refined["on"]),
        )
        return {"is": "portrait", "sentence": sentence, "crop": f"data:image/jpeg;base64,{jpeg}", "refined": refined}


def new_request(session: Session) -> int:
    """Count a request for a portrait, and return its number."""
    session.check_not_recorded()
    session.choice.requested += 1
    return session.choice.requested
