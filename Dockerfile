# The image of every function, and of the job for long steps: which one it is says FUNCTION_TARGET.
#
#   docker build -t pipelines .
#   docker run -e FUNCTION_TARGET=api -e PIPELINES_MODE=cloud … -p 8080:8080 pipelines
FROM python:3.11.14-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /app

# Before the code, so that a change of ours does not install them anew.
COPY requirements.txt .
RUN python -m venv --without-pip /venv \
    && pip --python /venv/bin/python install --require-hashes --no-compile -r requirements.txt

COPY main.py ./
COPY functions functions
COPY shared shared
COPY configs configs

# The pipelines are parsed and checked here, once: an image with a faulty one is not built. Bytecode is
# trusted as it is, since nobody changes a file of an image.
RUN /venv/bin/python -m shared.bootstrap.compiled \
    && /venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /venv/lib /app

FROM python:3.11.14-slim-bookworm

RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin pipelines
WORKDIR /app
COPY --from=build /venv /venv
COPY --from=build /app /app

ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PORT=8080
USER 10001
EXPOSE 8080
CMD ["functions-framework"]
