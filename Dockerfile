# The image holds nothing but the binary:
#
#   docker build -t uid-nri-plugin .
#
# and in the Dockerfile of the node image:
#
#   COPY --from=uid-nri-plugin /uid-nri-plugin /opt/nri/plugins/00-uid-mapper

FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN target="$(uname -m)-unknown-linux-musl" \
 && rustup target add "$target" \
 && cargo build --release --locked --target "$target" \
 && cp "target/$target/release/uid-nri-plugin" /uid-nri-plugin

FROM scratch
COPY --from=build /uid-nri-plugin /uid-nri-plugin
