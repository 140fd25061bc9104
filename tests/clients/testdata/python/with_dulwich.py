"""dulwich as a client of the matrix. clients_test.go says what the arguments are."""

import sys

from dulwich import porcelain
from dulwich.client import get_transport_and_path
from dulwich.repo import Repo


def list_refs(url):
    for name, oid in porcelain.ls_remote(url).refs.items():
        print(oid.decode(), name.decode())


def clone(url, dir, **options):
    porcelain.clone(url, dir, errstream=porcelain.NoneStream(), **options).close()


def commit(url, dir, oid):
    client, path = get_transport_and_path(url)
    with Repo.init(dir, mkdir=True) as repo:
        client.fetch(path, repo, determine_wants=lambda refs, depth=None: [oid.encode()], depth=1)
        repo.refs[b"refs/heads/master"] = oid.encode()
        repo.get_worktree().reset_index()


def fetch(dir, **options):
    porcelain.fetch(dir, "origin", errstream=porcelain.NoneStream(), include_tags=True, **options)


match sys.argv[1:]:
    case ["list", url]:
        list_refs(url)
    case ["clone", url, dir]:
        clone(url, dir)
    case ["depth", url, dir]:
        clone(url, dir, depth=1)
    case ["tag", url, dir, tag]:
        clone(url, dir, depth=1, branch=tag)
    case ["commit", url, dir, oid]:
        commit(url, dir, oid)
    case ["fetch", dir]:
        fetch(dir)
    case ["fetchdepth", dir]:
        fetch(dir, depth=1)
    case _:
        sys.exit("unknown step")
