#!/bin/sh
# Runs a command with Java 17 or newer at hand, and gets Java first where there is none.
# usage: conf/java.sh COMMAND [ARGUMENT...]
#
# Java is JAVA_HOME where that is set, otherwise java on PATH, otherwise .jre in this checkout. Where all
# three fail, root gets Debian's package; anyone else gets a runtime in .jre, by the package install-jdk.
set -eu
checkout=$(cd "$(dirname "$0")/.." && pwd)
jre=$checkout/.jre/17
python=$checkout/.venv/bin/python
tried=""  # the last line of each attempt that failed

# The major version in what `java -version` printed: 17 of "17.0.15", 21 of "21", 1 of "1.8.0_392".
major() {
    sed -n 's/.* version "\([0-9]*\).*/\1/p'
}

# Whether Spark can use the java at $1. Its launcher asks for this module, which some runtimes lack.
fits() {
    command -v "$1" >/dev/null &&
        printed=$("$1" --add-modules=jdk.incubator.vector -version 2>&1) &&
        [ "$(echo "$printed" | major)" -ge 17 ] 2>/dev/null
}

find_java() {
    if [ -n "${JAVA_HOME:-}" ]; then
        fits "$JAVA_HOME/bin/java"
    else
        fits java || { fits "$jre/bin/java" && export JAVA_HOME="$jre"; }
    fi
}

# Debian 13 has no 17 any more; what it calls its default is newer.
install_package() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && {
        apt-get install -qq --no-install-recommends openjdk-17-jre-headless ||
            apt-get install -qq --no-install-recommends default-jre-headless
    }
}

download_runtime() {
    "$python" -m pip --disable-pip-version-check install --quiet "install-jdk>=1.1" &&
        "$python" - "$jre" <<'PYTHON'
import shutil, socket, sys, tempfile
from pathlib import Path

import jdk

socket.setdefaulttimeout(60)
jre = Path(sys.argv[1])
with tempfile.TemporaryDirectory(dir=sys.prefix) as folder:
    jdk.install("17", jre=True, path=folder)
    java = next(Path(folder).glob("**/bin/java"))
    shutil.rmtree(jre, ignore_errors=True)
    jre.parent.mkdir(exist_ok=True)
    java.parent.parent.rename(jre)
PYTHON
}

# Runs a way to get Java, $2, announced as $1; keeps its output for the error.
get_java() {
    echo "Java 17 or newer is missing: $1." >&2
    output=$($2 2>&1) && find_java && return
    tried="$tried
    $1 failed: $(echo "$output" | tail -n 1)"
    return 1
}

fail() {
    java=${JAVA_HOME:+$JAVA_HOME/bin/}java
    if command -v "$java" >/dev/null; then
        found="$java says: $("$java" -version 2>&1 | grep -v "^Picked up" | head -n 1)"
    else
        found="there is no $java"
    fi
    cat >&2 <<MESSAGE
Spark needs Java 17 or newer, with the module jdk.incubator.vector; $found.$tried
Install a Java runtime, for example
    on Debian or Ubuntu, as root: apt-get install openjdk-17-jre-headless
    on Fedora, as root: dnf install java-21-openjdk-headless
    on macOS: brew install --cask temurin@21
or set JAVA_HOME to the folder of one, and run this again.
MESSAGE
    exit 1
}

find_java || {
    [ -z "${JAVA_HOME:-}" ] || fail
    { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null &&
        get_java "installing it with apt-get" install_package; } ||
        get_java "downloading it into .jre" download_runtime || fail
}
exec "$@"
