"""Print the newest CPython of 3.11 or later on this machine: on PATH, or among pyenv's."""

import glob
import os
import re
import subprocess
import sys

candidates = {os.path.realpath(sys.executable)}
for folder in os.environ["PATH"].split(os.pathsep):
    candidates |= {os.path.realpath(path) for path in glob.glob(os.path.join(folder, "python3.[0-9]*"))}
candidates |= {os.path.realpath(path) for path in glob.glob(os.path.expanduser("~/.pyenv/versions/3.*/bin/python3"))}


def version(path: str) -> tuple[int, ...]:
    if not re.fullmatch(r"python3(\.\d+)?", os.path.basename(path)):
        return ()
    command = [path, "-c", "import sys, venv, ensurepip; print(*sys.version_info[:3])"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return tuple(map(int, answer.stdout.split())) if answer.returncode == 0 else ()


print(max((path for path in candidates if version(path) >= (3, 11)), key=version))
