# syntax=docker/dockerfile:1

# What both the plan and the build need: the compilers for RocksDB and its bindings, and cargo-chef.
FROM rust:1.95-slim-bookworm AS chef
# The base image's release decides the versions.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libclang-dev make \
    && rm -rf /var/lib/apt/lists/* \
    && cargo install cargo-chef --locked --version 0.1.78
WORKDIR /build

# The recipe: the dependencies alone, so that it changes only when they do.
FROM chef AS plan
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

# The dependencies in a layer of their own (RocksDB takes minutes), then TLog.
FROM chef AS build
COPY --from=plan /build/recipe.json .
RUN cargo chef cook --release --locked --package broker --recipe-path recipe.json
COPY . .
RUN cargo build --release --locked --package broker \
    && strip --strip-debug target/release/tlog \
    && mkdir /data

FROM debian:bookworm-slim
RUN useradd --system --uid 7256 --no-create-home --home-dir /data --shell /usr/sbin/nologin tlog
COPY --from=build /build/target/release/tlog /usr/local/bin/tlog
COPY --from=build --chown=7256:7256 /data /data
USER 7256:7256
VOLUME /data
EXPOSE 7256
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 CMD ["tlog", "health", "--ready"]
ENTRYPOINT ["tlog"]
CMD ["serve", "--data", "/data", "--listen", "0.0.0.0:7256"]
