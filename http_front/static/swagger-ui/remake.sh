#!/usr/bin/env bash
# Updates the vendored files in this folder from their npm package.
set -euo pipefail
cd "$(dirname "$0")"

version=5.35.0
sha512=534eaba4cb56f55dd73c638179a993512af4674f63317e0826e00da44fc465b021c341bc0a0c2bcd4e18997927fe1d3008336c5dd19aad334d1c2dec53cc9551
archive="swagger-ui-dist-$version.tgz"

trap 'rm -f "$archive"' EXIT
npm pack --silent "swagger-ui-dist@$version"
echo "$sha512  $archive" | sha512sum --check --quiet
tar --extract --gzip --no-same-owner --strip-components=1 --file "$archive" \
    package/swagger-ui-bundle.js package/swagger-ui-bundle.js.LICENSE.txt \
    package/swagger-ui.css package/LICENSE package/NOTICE
