"""What the hub is held against: the few lines that serve a folder with FastAPI and no more.

``plain_hub.py FOLDER PORT [DELAY_MS]``: a delay stands for a disk that takes so long to open a file; the event loop
goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from fastapi.responses import FileResponse

app = FastAPI()
served = Path(sys.argv[1])
delay_s = float(sys.argv[3]) / 1000 if len(sys.argv) > 3 else 0.0


@app.get("/file/{dataset}/{path:path}")
async def read_file(dataset: str, path: str) -> FileResponse:
    """Answer with a file, as the documentation of FastAPI has it: no key, no gate, no hash."""
    if delay_s:
        await asyncio.sleep(delay_s)
    return FileResponse(served / dataset / path)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]))
