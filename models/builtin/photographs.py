"""Step 1: collect photographs from copies of public repositories.

    python photographs.py --mirrors DIR --out photographs

`DIR/<owner>+<name>/` holds a clone (bare or not) of each repository in sources.toml. Every JPEG
is written once, named by its git blob id, to `OUT/<owner>+<name>/<id>.jpg`, bytes unchanged.
"""

import argparse
import subprocess
import tomllib
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg")


def git_directory(mirror):
    """The folder below `mirror` that holds the repository's HEAD."""
    heads = [p for depth in ("", "*/", "*/*/") for p in mirror.glob(f"{depth}HEAD")]
    if not heads:
        raise SystemExit(f"{mirror}: no git repository there; clone it first")
    return heads[0].parent


def blobs(repository, under):
    """Blob ids of the JPEG files below the path `under` in the newest commit."""
    listing = subprocess.run(
        ["git", f"--git-dir={repository}", "ls-tree", "-r", "-z", "HEAD"],
        check=True, capture_output=True,
    ).stdout.decode("utf-8", "replace")
    for entry in filter(None, listing.split("\0")):
        attributes, path = entry.split("\t", 1)
        if path.startswith(under) and path.lower().endswith(SUFFIXES):
            yield attributes.split()[2]


def copy(repository, under, folder, seen):
    """Write each blob that is not in `seen` to `folder`; returns how many were written."""
    wanted = [blob for blob in dict.fromkeys(blobs(repository, under)) if blob not in seen]
    seen.update(wanted)
    folder.mkdir(parents=True, exist_ok=True)
    reader = subprocess.Popen(
        ["git", f"--git-dir={repository}", "cat-file", "--batch"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )
    for blob in wanted:
        reader.stdin.write(f"{blob}\n".encode())
        reader.stdin.flush()
        header = reader.stdout.readline().split()
        if header[1:2] != [b"blob"]:
            continue
        data = reader.stdout.read(int(header[2]) + 1)[:-1]
        (folder / f"{blob}.jpg").write_bytes(data)
    reader.stdin.close()
    reader.wait()
    return len(wanted)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mirrors", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sources", type=Path, default=Path(__file__).with_name("sources.toml"))
    arguments = parser.parse_args()
    seen = set()
    for source in tomllib.loads(arguments.sources.read_text())["source"]:
        name = source["repository"].replace("/", "+")
        if (arguments.mirrors / name).is_dir():
            repository = git_directory(arguments.mirrors / name)
            count = copy(repository, source.get("under", ""), arguments.out / name, seen)
            print(f"{count:6}  {source['repository']}")
        else:
            print(f"absent  {source['repository']}")


if __name__ == "__main__":
    main()
