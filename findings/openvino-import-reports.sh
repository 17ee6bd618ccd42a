#!/usr/bin/env bash
# openvino 2026.4.1 with openvino-telemetry 2025.2.0, which pip installs with it, Python 3.11: `import openvino` alone sends an
# event "import" to a statistics service, with a client number that it writes into the home folder, where no consent was asked
# for or given. The documents speak of the tools that convert models. It does not with CI=true, nor without the second
# package, which the import can do without. Here nothing leaves: looking up a host is noted, and refused.
# seen: import alone: 1 host looked up, 1 folder in the home folder; without openvino_telemetry: 0 and 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 openvino-telemetry==2025.2.0 numpy==2.4.6
cat > "$work/look.py" <<'PY'
import os
import socket
import sys


def noted(*arguments, **names):
    with open(os.environ["NOTED"], "a") as file:
        file.write("looked up\n")
    raise OSError("refused here")


socket.getaddrinfo = noted
socket.socket.connect = noted
if sys.argv[1] == "without":
    sys.modules["openvino_telemetry"] = None
import openvino  # noqa: F401
PY
for how in alone without; do
    mkdir "$work/$how"
    env -u CI -u TF_BUILD -u JENKINS_URL HOME="$work/$how" NOTED="$work/$how.txt" "$work/env/bin/python" "$work/look.py" $how 2> /dev/null
    touch "$work/$how.txt"
    echo "$how: $(wc -l < "$work/$how.txt") hosts looked up, $(find "$work/$how" -mindepth 1 -maxdepth 1 -type d | wc -l) folders in the home folder"
done | tee "$work/seen"
diff - "$work/seen" <<'SEEN'
alone: 1 hosts looked up, 1 folders in the home folder
without: 0 hosts looked up, 0 folders in the home folder
SEEN
