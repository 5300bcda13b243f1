# fdif-jax on a CPU, from its wheel: `docker build -t fdif-jax .`, then
#   docker run --rm fdif-jax                                  # fdif doctor
#   docker run --rm -v "$PWD:/data" fdif-jax generate --out scenes --num-samples 10
# With --build-arg EXTRAS=all,cuda it takes JAX for NVIDIA GPUs (docker run --gpus all …).
FROM python:3.11-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY fdif_jax fdif_jax
COPY shapes shapes
COPY models models
COPY scripts scripts
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
ARG EXTRAS=all
COPY constraints.txt /wheels/
COPY --from=build /wheels /wheels
RUN python -m pip install --no-cache-dir -c /wheels/constraints.txt "$(ls /wheels/*.whl)[$EXTRAS]" \
  && rm -r /wheels \
  && useradd --create-home fdif \
  && mkdir /data && chown fdif /data
USER fdif
WORKDIR /data
RUN fdif doctor
ENTRYPOINT ["fdif"]
CMD ["doctor"]
