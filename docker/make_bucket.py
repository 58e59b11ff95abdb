"""Make a bucket of the object store that the environment names, if it is missing: ``make_bucket.py NAME``."""

from __future__ import annotations

import os
import sys

import boto3


def main() -> None:
    """Make it."""
    store = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
    name = sys.argv[1]
    if name not in {bucket["Name"] for bucket in store.list_buckets()["Buckets"]}:
        store.create_bucket(Bucket=name)


if __name__ == "__main__":
    main()
