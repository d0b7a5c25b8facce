#!/bin/sh
# Sees to it that there is a Chromium for the tests of the HTML report: they look at it as its readers do.
# CHROMIUM names another than the one on the PATH.
set -eu
if [ -n "${CHROMIUM:-}" ] && [ -x "$CHROMIUM" ]; then exit 0; fi
if command -v chromium >/dev/null; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    exec apt-get install -y -qq --no-install-recommends chromium >/dev/null
fi
echo "make test needs Chromium: install it (Debian: sudo apt-get install chromium), or say where it is: CHROMIUM=/path make test" >&2
exit 1
