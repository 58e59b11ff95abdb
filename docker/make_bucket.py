"""Make those buckets that the object store of the environment lacks: ``make_bucket.py NAME...``."""

from __future__ import annotations

import sys

import boto3


def main() -> None:
    """Make them."""
    store = boto3.client("s3")
    there = {bucket["Name"] for bucket in store.list_buckets()["Buckets"]}
    for name in sys.argv[1:]:
        if name not in there:
            store.create_bucket(Bucket=name)


if __name__ == "__main__":
    main()
