"""Run every command of the README's ``sh`` blocks, in order, in the current folder; stop at the first that fails.

The photographs, weights and tables that the README calls photos/, file.pth, a.jpg, b.png, housing.csv and new.csv are
laid out from the test data first; commands that need them are left out, and said to be, where there is no test data.
"""

import os
import pathlib
import re
import subprocess
import sys


def commands(text: str) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    joined = "".join(blocks).replace("\\\n", " ")
    return [line.split("  #")[0].strip() for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def lay_out(data: pathlib.Path) -> None:
    """photos/{train,val}/<class> with every fourth real photograph, weights, and two single files."""
    for split in ("train", "val"):
        for folder in sorted((data / "images" / "hymenoptera" / split).iterdir()):
            target = pathlib.Path("photos", split, folder.name)
            target.mkdir(parents=True)
            for photograph in sorted(folder.iterdir())[::4]:
                (target / photograph.name).symlink_to(photograph)
    lines = (data / "tabular" / "california_housing.csv").read_text().splitlines()
    pathlib.Path("housing.csv").write_text("\n".join([lines[0], *lines[1::40]]) + "\n")
    pathlib.Path("new.csv").write_text("\n".join([lines[0], *lines[2::400]]) + "\n")
    pathlib.Path("file.pth").symlink_to(data / "weights" / "resnet50_augnet.pth")
    pathlib.Path("a.jpg").symlink_to(sorted((data / "images/hymenoptera/val/ants").iterdir())[0])
    pathlib.Path("b.png").symlink_to(data / "odd_images" / "hopper_orientation_3.jpg")


def main() -> None:
    data = pathlib.Path(os.environ["JAXMODELS_TEST_DATA"])
    if data.is_dir():
        lay_out(data)
    for command in commands(pathlib.Path(sys.argv[1]).read_text()):
        if not data.is_dir() and re.search(r"photos|runs/|file\.pth|\.csv", command):
            print(f"left out, no test data: {command}", flush=True)
            continue
        print(f"$ {command}", flush=True)
        code = subprocess.run(["bash", "-euo", "pipefail", "-c", command], check=False).returncode
        if code:
            sys.exit(f"exit code {code}: {command}")


main()
