#!/bin/sh
# Measures how long `plan --from-image` takes for an image of one layer of 1 GB, beside `tar -tv` of that layer: plain,
# gzip and zstd. Prints medians and ratios of one run, then PASS or MISS for the reach of 1.5 times. Fails only if it
# cannot measure. Takes 2 GB of $TMPDIR and about a minute.
#
#     tests/bench-image.sh            the plugin that cargo builds
#     UID_NRI_PLUGIN=FILE tests/bench-image.sh
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=tests/lib.sh
. "$root/tests/lib.sh"

need_packages python3:python3 gzip:gzip zstd:zstd
if [ -z "${UID_NRI_PLUGIN:-}" ]; then
	need_rust "$target"
	build_plugin
	UID_NRI_PLUGIN=$plugin
fi
[ -x "$UID_NRI_PLUGIN" ] || die "there is no program at $UID_NRI_PLUGIN"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

say "making a layer of 1 GB and three images of it (half a minute)"
python3 - "$work" <<'PYTHON'
import io, random, subprocess, sys, tarfile

work = sys.argv[1]
chance = random.Random(1)
# Half of it random, half not, in pieces: about what gzip makes of programs.
data = b"".join(chance.randbytes(600) + b"some text " * 90 for _ in range(1 << 12))
layer = work + "/layer.tar"

class Content(io.RawIOBase):
    """As many bytes as are asked for."""
    def read(self, size):
        start = chance.randrange(1 << 20)
        return (data[start:] + data * (size // len(data) + 1))[:size]

with tarfile.open(layer, "w", format=tarfile.PAX_FORMAT) as tar:
    total = number = 0
    while total < 1 << 30:
        # Most files are small, most bytes are in large ones.
        entry = tarfile.TarInfo("usr/lib/package%d/with/some/folders/file%d" % (number // 40, number))
        entry.size = min(int(chance.lognormvariate(8.5, 2)), 100 << 20)
        entry.uid = entry.gid = chance.choice([0] * 50 + [1000, 65532, 70000, 1000660000])
        tar.addfile(entry, Content())
        total += entry.size
        number += 1
print("    %d files" % number)

for kind, command in ("plain", None), ("gzip", "gzip -1 -c"), ("zstd", "zstd -q -c"):
    name = layer
    if command:
        name = "%s/layer.tar.%s" % (work, kind)
        with open(name, "wb") as packed:
            subprocess.run([*command.split(), layer], stdout=packed, check=True)
    with tarfile.open("%s/%s.tar" % (work, kind), "w") as image:
        for member, text in (
            ("config.json", '{"config": {"User": "65532"}}'),
            ("manifest.json", '[{"Config": "config.json", "RepoTags": ["bench:1"], "Layers": ["l/layer.tar"]}]'),
        ):
            entry = tarfile.TarInfo(member)
            entry.size = len(text)
            image.addfile(entry, io.BytesIO(text.encode()))
        image.add(name, "l/layer.tar")
PYTHON

say "measuring, five times each, in turns"
UID_NRI_PLUGIN="$UID_NRI_PLUGIN" python3 - "$work" <<'PYTHON'
import os, resource, statistics, subprocess, sys, time

work, plugin = sys.argv[1], os.environ["UID_NRI_PLUGIN"]

def seconds(command):
    start = time.monotonic()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.monotonic() - start

print("    %-6s %10s %10s %6s" % ("layer", "tar -tv", "plan", "ratio"))
for kind, layer in ("plain", "layer.tar"), ("gzip", "layer.tar.gzip"), ("zstd", "layer.tar.zstd"):
    options = [] if kind == "plain" else ["--use-compress-program=" + kind]
    ours = [plugin, "plan", "--subuid", "2048", "--from-image", "%s/%s.tar" % (work, kind)]
    theirs = ["tar", *options, "-tvf", "%s/%s" % (work, layer)]
    times = [(seconds(theirs), seconds(ours)) for _ in range(6)][1:]
    tar, plan = (statistics.median(column) for column in zip(*times))
    verdict = "PASS" if plan <= 1.5 * tar else "MISS"
    print("    %-6s %8.0fms %8.0fms %6.2f  %s" % (kind, tar * 1000, plan * 1000, plan / tar, verdict))
most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print("    most memory of any process here: %.1f MB" % (most / 1024))
PYTHON
