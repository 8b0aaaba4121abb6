# The hub in a container: docker build -t dsx-hub . && docker compose up
FROM python:3.13-slim

# A fixed number, so that the owner of the state volume is the same in every build.
RUN useradd --system --uid 10001 --create-home --home-dir /home/dsx dsx \
    && install -d -o dsx -g dsx -m 0700 /state

WORKDIR /opt/dsx-hub
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir ".[server]"

USER dsx
ENV DSX_DATASET_PATH=/data \
    DSX_STATE_DIR=/state \
    DSX_PORT=8000
VOLUME /state
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4).read()"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["dsx", "serve"]
