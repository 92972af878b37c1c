# The image holds nothing but the binary:
#
#   docker build -t uid-nri-plugin .
#
# and at the end of the Dockerfile of the node image, the second in place of its ENTRYPOINT:
#
#   COPY --from=uid-nri-plugin /uid-nri-plugin /usr/local/bin/uid-nri-plugin
#   ENTRYPOINT ["uid-nri-plugin", "node", "--", "/u7s-entrypoint.sh", "/usr/local/bin/entrypoint", "/sbin/init"]

FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN target="$(uname -m)-unknown-linux-musl" \
 && rustup target add "$target" \
 && cargo build --release --locked --target "$target" \
 && cp "target/$target/release/uid-nri-plugin" /uid-nri-plugin

FROM scratch
COPY --from=build /uid-nri-plugin /uid-nri-plugin
