"""libgit2, by pygit2, as a client of the matrix. clients_test.go says what the arguments are."""

import sys

import pygit2

ALL = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"]


def list_refs(url):
    for ref in pygit2.Repository().remotes.create_anonymous(url).list_heads():
        print(ref.oid, ref.name)


def fetch_into_new(url, dir, refspec, ref):
    repo = pygit2.init_repository(dir)
    repo.remotes.create("origin", url).fetch([refspec], depth=1)
    target = repo.references[ref].peel(pygit2.Commit).id
    repo.checkout_tree(repo[target])
    repo.set_head(target)


def fetch(dir, depth):
    pygit2.Repository(dir).remotes["origin"].fetch(ALL, depth=depth)


match sys.argv[1:]:
    case ["list", url]:
        list_refs(url)
    case ["clone", url, dir]:
        pygit2.clone_repository(url, dir)
    case ["depth", url, dir]:
        pygit2.clone_repository(url, dir, depth=1)
    case ["tag", url, dir, tag]:
        name = "refs/tags/" + tag
        fetch_into_new(url, dir, "+" + name + ":" + name, name)
    case ["commit", url, dir, oid]:
        fetch_into_new(url, dir, oid + ":refs/heads/main", "refs/heads/main")
    case ["fetch", dir]:
        fetch(dir, 0)
    case ["fetchdepth", dir]:
        fetch(dir, 1)
    case _:
        sys.exit("unknown step")
