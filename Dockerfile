# The relay as a container, and the change feed processor: every command of `crossfeed` runs from it.
#
#   docker build -t crossfeed .
#   docker run --stop-timeout 30 -p 8080:8080 -e CROSSFEED_POSTGRES_DSN=… -e CROSSFEED_MAPPINGS=… crossfeed
#   docker run --stop-timeout 30 -p 8081:8080 -e CROSSFEED_POSTGRES_DSN=… -e CROSSFEED_MAPPINGS=… crossfeed mirror
#
# /livez, /readyz and /metrics of both are on port 8080. Your own mappings come with an image of yours:
#
#   FROM crossfeed
#   COPY my_domain /app/my_domain
#
# PYTHON_IMAGE pins the base; give a digest (python@sha256:…) where builds must be repeatable to the byte.
ARG PYTHON_IMAGE=python:3.13.9-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /source
COPY .ci/image.lock ./
RUN python -m venv --without-pip /opt/crossfeed \
    && pip --python /opt/crossfeed/bin/python install --no-cache-dir --no-deps --require-hashes -r image.lock
COPY pyproject.toml README.md LICENSE ./
COPY core core
COPY outbox outbox
COPY changefeed changefeed
COPY functions functions
COPY migrations migrations
RUN pip --python /opt/crossfeed/bin/python install --no-cache-dir --no-deps --no-build-isolation . \
    && pip --python /opt/crossfeed/bin/python uninstall --yes hatchling pathspec pluggy tomlkit trove-classifiers

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/crossfeed /opt/crossfeed
ENV PATH=/opt/crossfeed/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    CROSSFEED_LOG_FORMAT=json \
    CROSSFEED_HTTP_HOST=0.0.0.0 \
    CROSSFEED_HTTP_PORT=8080
WORKDIR /app
USER 10001:10001
EXPOSE 8080
# A pass has 20 seconds to end, a page 5; give the container 30 (docker: --stop-timeout, Kubernetes' default).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/livez', timeout=4)"]
ENTRYPOINT ["crossfeed"]
CMD ["relay"]
