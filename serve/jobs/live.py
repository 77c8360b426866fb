"""`triportrait live`: a face before a camera drives a portrait in a browser, served from here."""

from __future__ import annotations

import logging
import os
import re
import secrets
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from triportrait.core.errors import InputError
from triportrait.core.faces.models import COMMAND
from triportrait.core.gpus import chosen_device
from triportrait.core.optional_packages import fault, install
from triportrait.core.weights import log_weights, named_weights
from triportrait.serve.cuda_graph import BATCHES
from triportrait.serve.faces.providers import face_provider
from triportrait.serve.first_start import FirstStart
from triportrait.serve.live.addresses import addresses_to_open, is_loopback
from triportrait.serve.live.admission import PACE_FPS, Admission
from triportrait.serve.live.dali_jpeg import chosen_jpeg_decoder
from triportrait.serve.live.host_costs import host_costs
from triportrait.serve.live.inference import Engine
from triportrait.serve.live.json_logs import fields, json_logs
from triportrait.serve.live.people import check_paths, load_people
from triportrait.serve.live.prometheus import Metrics
from triportrait.serve.live.recording import Recordings
from triportrait.serve.live.refining import MINUTES, RefineOptions, check_minutes
from triportrait.serve.live.run_uvicorn import bind, run
from triportrait.serve.live.server import LiveServer
from triportrait.serve.live.weights_notice import weights_notice
from triportrait.serve.live.worker import thread_count
from triportrait.serve.media.output_file import reason_of
from triportrait.serve.media.provenance.stamp import Stamp
from triportrait.serve.media.video.decoders import DecoderChoice
from triportrait.serve.media.video.encoders import chosen_encoder
from triportrait.serve.precision import Precision, use_precision
from triportrait.serve.reenactor import Reenactor
from triportrait.serve.threads import share_cores
from triportrait.serve.weight_loading import WeightFiles, load_weights

logger = logging.getLogger(__name__)

REQUIRED_PACKAGES = ("fastapi", "uvicorn", "websockets", "aiortc", "prometheus_client")
MOST_SESSIONS = 64
TOKEN_VARIABLE = "TRIPORTRAIT_TOKEN"
_MIN_DISTINCT_CHARACTERS = 6
NO_SOURCE_SHA256 = "0" * 64  # stands in until a session has a portrait


@dataclass(frozen=True)
class Live:
    """Serve a page on which a camera or a video drives a portrait."""

    weights: Annotated[str | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Weights folder, or `demo`. Default: $TRIPORTRAIT_WEIGHTS, else `demo`."""
    host: str = "127.0.0.1"
    """The address to listen on; unless it is a loopback address, visitors need a token."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    token: Annotated[str | None, tyro.conf.arg(help_behavior_hint="")] = None
    """The token of visitors; other users of this machine see it in the list of processes. Default: see --token-file."""
    token_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """A file with the token. Default: $TRIPORTRAIT_TOKEN, else a random one where visitors need one."""
    sessions: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """At most N sessions at a time. Default: as many as this machine was measured to keep up with."""
    geometry: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Show depth and normals to pages that ask for them. On a GPU their graphs are captured at the start; --no-geometry
    leaves them out."""
    watermark: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """Put the invisible watermark into every picture; --no-watermark leaves it out, and manifests say so."""
    certificate: Annotated[Path | None, tyro.conf.arg(metavar="PEM", help_behavior_hint="")] = None
    """Sign recordings with this certificate. Default: $TRIPORTRAIT_CERTIFICATE, else one made at first use."""
    key: Annotated[Path | None, tyro.conf.arg(metavar="PEM", help_behavior_hint="")] = None
    """The private key of --certificate, where that file does not hold it."""
    person: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FILE")] = ()
    """Show the portrait of this person refined, wherever a page takes the picture that `triportrait personalize` made
    the file of; may be given several times."""
    refine_minutes: Annotated[float | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None
    """Let visitors refine a photo of theirs for N minutes, up to 30; 0 lets none. Default: 2 on a loopback address, 0
    elsewhere."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run."""
    precision: Precision = "auto"
    """Floating-point precision; `auto` is bf16 or fp16 on a GPU where a test frame is as good in it, fp32 elsewhere."""

    decoder: DecoderChoice = "auto"
    """What decodes driving frames that come as JPEG: `av` and `auto`, the CPU; or `dali`, nvJPEG beside a network on a
    GPU. What does not run here, and what comes over WebRTC, the CPU decodes, and the log says why."""

    def run(self) -> None:
        """Check, listen, load, measure, serve; Ctrl-C ends it."""
        self._check()
        token = given_token(self.token, self.token_file)
        if token is None and not is_loopback(self.host):
            token = secrets.token_urlsafe(24)
        with bind(self.host, self.port) as bound, json_logs():
            if self.token is not None:
                logger.warning(
                    "--token: other users of this machine see it in the list of processes; use --token-file or "
                    "$TRIPORTRAIT_TOKEN"
                )
            server = self._load_and_measure()
            hosts = [f"[{host}]" if ":" in host else host for host in addresses_to_open(self.host)]
            addresses = [f"http://{host}:{bound.getsockname()[1]}/" for host in hosts]
            logger.info("serving", extra=fields(address=addresses[0], capacity=server.admission.capacity))
            bound.listen()  # nobody who opens the address at once is turned away
            for address in addresses:
                print(f"triportrait live: {address}" + ("" if token is None else f"?token={token}"), flush=True)
            run(server.application(self.host, token), bound, server.abandon)

    def _check(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InputError(f"--port: expected 0 to 65535, got {self.port}; choose another")
        if self.sessions is not None and not 1 <= self.sessions <= MOST_SESSIONS:
            raise InputError(f"--sessions: expected 1 to {MOST_SESSIONS}, got {self.sessions}; choose another")
        check_minutes(self.refine_minutes)
        check_paths(self.person)
        if self.device == "cuda":
            chosen_device(self.device)  # refused before anything listens
        for name in REQUIRED_PACKAGES:
            if (why := fault(name)) is not None:
                raise InputError(f"live: {name} {why}; `{install('serve')}`")

    def _load_and_measure(self) -> LiveServer:
        weights = named_weights(self.weights)
        log_weights(self.weights)
        began = time.perf_counter()
        device = chosen_device(self.device)
        share_cores(device, others=1)  # finding the faces of the next frames needs a core
        notes = []
        stamp = Stamp(
            NO_SOURCE_SHA256, weights, watermark=self.watermark, certificate=self.certificate, key=self.key,
        )  # fmt: skip
        if not stamp.signs:
            notes.append(f"Recordings carry no manifest here: {stamp.unsigned}.")
        reenactor = Reenactor(*load_weights(weights), device)
        reenactor.reload = WeightFiles(weights).load_again
        people = load_people(self.person, reenactor, weights)
        first_start = FirstStart(reenactor, self.precision, BATCHES[-1])
        with first_start.part():
            use_precision(reenactor, self.precision)
        if people:
            reenactor.as_loaded()  # now, as frames wait for it later
        with first_start.part(last=True):
            reenactor.capture(BATCHES[-1], marked=[self.watermark], geometry=self.geometry)
        engine = Engine(
            reenactor, face_provider(), stamp, chosen_jpeg_decoder(self.decoder, device), self.geometry
        )  # fmt: skip
        if not engine.finds_faces:
            notes.append(f"Nothing finds faces here (run `{COMMAND}` and start anew): keep your face in the middle.")
        frame_s, costs = engine.measure(), host_costs(engine, thread_count())
        loaded = fields(
            weights=weights, device=str(device), seconds=round(time.perf_counter() - began, 2),
            frame_ms=round(1e3 * frame_s, 2), batch=engine.most_batch, faces=engine.finds_faces,
            watermark=self.watermark,
        )  # fmt: skip
        logger.info("loaded", extra=loaded)
        metrics = Metrics(torch.cuda.memory_allocated if device.type == "cuda" else None)
        admission = Admission(frame_s, PACE_FPS[device.type], self.sessions, costs)
        capacity = fields(
            sessions=admission.capacity, bottleneck=admission.bottleneck,
            part_ms={name: round(1e3 * cost.seconds, 2) for name, cost in admission.costs().items()},
        )  # fmt: skip
        logger.info("capacity", extra=capacity)
        recordings = Recordings(chosen_encoder("auto", device.type == "cuda"))
        minutes = self.refine_minutes
        if minutes is None:
            minutes = MINUTES if is_loopback(self.host) else 0.0
        refine = RefineOptions(weights, minutes, people)
        return LiveServer(engine, admission, metrics, recordings, notes, weights_notice(weights, reenactor), refine)


def given_token(token: str | None, file: Path | None) -> str | None:
    """The token that somebody chose: `--token`, else the file's, else $TRIPORTRAIT_TOKEN.

    Raises:
        InputError: it can be guessed, its file cannot be read, or two are given.
    """
    if token is not None and file is not None:
        raise InputError("--token, --token-file: expected only one of them, got both; leave one out")
    name = "--token"
    if file is not None:
        name, token = f"--token-file {file}", _read_token(file)
    elif token is None:
        name, token = f"${TOKEN_VARIABLE}", os.environ.get(TOKEN_VARIABLE) or None
    if token is None:
        return None
    if not re.fullmatch(r"[A-Za-z0-9_-]{16,200}", token):
        raise InputError(
            f"{name}: expected 16 to 200 letters, digits, - and _, got {len(token)} characters, or others than these; "
            "`openssl rand -hex 16` makes one"
        )
    if len(set(token)) < _MIN_DISTINCT_CHARACTERS:
        raise InputError(
            f"{name}: expected {_MIN_DISTINCT_CHARACTERS} different characters at least, got {len(set(token))}; "
            "`openssl rand -hex 16` makes one"
        )
    return token


def _read_token(file: Path) -> str:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise InputError(
                f"--token-file {file}: expected a regular file with the token, got something else; name another"
            )
        with file.open("rb") as opened:
            return opened.read(4096).decode("ascii", "replace").strip()
    except OSError as error:
        raise InputError(f"--token-file {file}: it cannot be read ({reason_of(error)}); check the path") from error
