#!/usr/bin/env bash
# Two extended headers (type `x`) in a row, before one file: one would expect all readers to treat them alike. They do not, and the
# file has another name by which library reads it.
#
#   node-tar 7.4.3 (npm `tar`) and Python's tarfile add the records of both up: the first one's path counts.
#   tar-stream 3.1.7 (npm) takes the last header alone, as GNU tar and Go's archive/tar do: the name is that of the file's own header.
#
# Seen November 2026 with Node.js and Python 3. A user meets it where one tool lists an archive and another extracts it. imagefs goes
# with GNU tar and Go.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
cd "$work"

python3 - <<'PYTHON' >two.tar
import sys


def header(name, size, kind):
    block = bytearray(512)
    block[0 : len(name)] = name
    block[100:124] = b"0000644\0" + b"0000000\0" * 2
    block[124:148] = b"%011o\0" % size + b"%011o\0" % 0
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data):
    return data + bytes(-len(data) % 512)


def extended(key, value):
    record = b" %s=%s\n" % (key, value)
    length = len(record) + 1
    while len(str(length)) + len(record) != length:
        length = len(str(length)) + len(record)
    data = b"%d" % length + record
    return header(b"extended", len(data), b"x") + padded(data)


sys.stdout.buffer.write(
    extended(b"path", b"renamed") + extended(b"comment", b"second") + header(b"plain", 3, b"0") + padded(b"abc") + bytes(1024)
)
PYTHON

npm init --yes >/dev/null
npm install --silent --no-fund --no-audit tar@7.4.3 tar-stream@3.1.7
cat >read.js <<'JS'
const fs = require('fs');
require('tar').t({ file: 'two.tar', sync: true, onReadEntry: (entry) => console.log('node-tar', entry.path) });
const extract = require('tar-stream').extract();
extract.on('entry', (header, stream, next) => {
  console.log('tar-stream', header.name);
  stream.resume();
  next();
});
fs.createReadStream('two.tar').pipe(extract);
JS

{
    node read.js
    python3 -c 'import tarfile; print("tarfile", *tarfile.open("two.tar").getnames())'
} >seen
printf 'node-tar renamed\ntar-stream plain\ntarfile renamed\n' >expected

echo "node-tar 7.4.3, tar-stream 3.1.7, Node.js $(node --version), $(python3 --version); GNU tar lists: $(tar --list --file two.tar)"
cat seen
diff expected seen || { echo 'this has changed' >&2 && exit 1; }
