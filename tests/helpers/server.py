"""An HTTP server that plays NIH's and the mirror's: it serves small archives, and can cut connections."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from helpers.archives import name, png, tar

TABLES = ("BBox_List_2017.csv", "Data_Entry_2017_v2020.csv", "test_list.txt", "train_val_list.txt")
FIRST = "/vfk49d74nhbxq3nqjg0900w5nvkorp5c.gz"  # Box's identifiers of images_001 and images_002
SECOND = "/i28rlmbvmfjbl8p2n3ril0pptcmcu9d1.gz"


class Server:
    """An HTTP server in this process: serves `files` (bytes by path) and records the requests.

    Attributes:
        asked: (path, Range header) of every request.
        drop: paths whose connection is cut once in the middle of the answer.
        ranges: whether the server honours a Range header.
        refuse: HTTP statuses of the next answers for a path.
        pause: seconds to wait in the middle of every answer.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.drop: set[str] = set()
        self.ranges = True
        self.refuse: dict[str, list[int]] = {}
        self.pause = 0.0
        state = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802
                state.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.asked.append((request.path, wanted))
        if self.refuse.get(request.path):
            return request.send_error(self.refuse[request.path].pop(0))
        if request.path not in self.files:
            return request.send_error(404)
        data, start = self.files[request.path], 0
        if wanted and self.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(data):
                return request.send_error(416)
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        data = data[start:]
        if request.path in self.drop:
            self.drop.discard(request.path)
            data = data[: len(data) // 2]
        half = len(data) // 2
        with contextlib.suppress(ConnectionError):  # the client may have been killed
            request.wfile.write(data[:half])
            time.sleep(self.pause)
            request.wfile.write(data[half:])

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def nih_server(folder: Path) -> Server:
    """A server with four tables and NIH's first two archives, of four images of 64x64 pixels each."""
    server = Server()
    for table in TABLES:
        server.files[f"/{table}"] = f"Image Index,of {table}\n".encode()
    for path, start in ((FIRST, 0), (SECOND, 10)):
        images = {f"images/{name(start + k)}": png(start + k, side=64) for k in range(4)}
        server.files[path] = tar(folder / "archive", images).read_bytes()
    return server
