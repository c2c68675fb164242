"""Credentials in URLs: found in every form that servers and users know, and gone from every text."""

import pytest

from molstream.io.credentials import credentials_in, redacted, without_credentials

SECRET = "S3cretS3cret"
PASSWORDS = {
    f"https://user:{SECRET}@host/m.csv": "https://host/m.csv",
    f"https://{SECRET}@host/m.csv": "https://host/m.csv",
    f"http://user:{SECRET}@host:8080/a/m.csv?version=3": "http://host:8080/a/m.csv",
    f"s3://AKIA:{SECRET}@bucket/m.csv": "s3://bucket/m.csv",
    f"s3://AKIA:{SECRET}/a/b@bucket/m.csv": "s3://bucket/m.csv",
    f"s3://AKIA:a@b{SECRET}@bucket/m.csv": "s3://bucket/m.csv",
    f"sftp://me:{SECRET}@host/m.csv": "sftp://host/m.csv",
    f"simplecache::ftp://me:{SECRET}@host/m.csv": "simplecache::ftp://host/m.csv",
    f"zip://m.csv::https://me:{SECRET}@host/m.zip": "zip://m.csv::https://host/m.zip",
}
SIGNATURES = {
    f"https://b.s3.amazonaws.com/m.csv?X-Amz-Date=1&X-Amz-Signature={SECRET}": "https://b.s3.amazonaws.com/m.csv",
    f"https://b.s3.amazonaws.com/m.csv?AWSAccessKeyId=1&Signature={SECRET}": "https://b.s3.amazonaws.com/m.csv",
    f"https://storage.googleapis.com/b/m.csv?X-Goog-Signature={SECRET}": "https://storage.googleapis.com/b/m.csv",
    f"https://a.blob.core.windows.net/b/m.csv?sv=1&sig={SECRET}": "https://a.blob.core.windows.net/b/m.csv",
    f"https://host/m.csv?access_token={SECRET}#x": "https://host/m.csv",
    f"https://host/m.csv?apikey={SECRET}": "https://host/m.csv",
    f"https://host?token={SECRET}": "https://host",
    f"abfs://box@a.dfs.core.windows.net/m.csv?sig={SECRET}": "abfs://a.dfs.core.windows.net/m.csv",
    f"filecache::https://host/m.csv?TOKEN={SECRET}": "filecache::https://host/m.csv",
}
NONE = (
    "s3://bucket/folder/a@b.csv",
    "sftp://me@host/m.csv",
    "abfs://box@account.dfs.core.windows.net/m.csv",
    "http://[::1]:8000/m.csv",
    "http://127.0.0.1:8000/m.csv?version=3",
    "https://host/m.csv?page=2&sort=id",
    "s3://bucket/what?.csv",
    "memory://m.csv",
    "a:b@c?sig=1",
    "molecules.csv",
)


@pytest.mark.parametrize(("url", "bare"), PASSWORDS.items())
def test_a_password_is_found_and_removed(url, bare):
    assert credentials_in(url) == "password"
    assert without_credentials(url) == bare


@pytest.mark.parametrize(("url", "bare"), SIGNATURES.items())
def test_a_signature_is_found_and_removed(url, bare):
    assert credentials_in(url) == "signature"
    assert without_credentials(url) == bare


@pytest.mark.parametrize("url", NONE)
def test_what_is_none_is_left(url):
    assert credentials_in(url) is None


@pytest.mark.parametrize("url", [*PASSWORDS, *SIGNATURES])
def test_no_text_keeps_one(url):
    bare = {**PASSWORDS, **SIGNATURES}[url]
    text = f"403, message='Forbidden', url=URL('{url}'); see {url}. And ({url})."
    assert redacted(text) == f"403, message='Forbidden', url=URL('{bare}'); see {bare}. And ({bare})."
