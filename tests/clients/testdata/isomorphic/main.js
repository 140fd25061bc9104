// isomorphic-git as a client of the matrix. clients_test.go says what the arguments are.
import fs from 'node:fs'
import git from 'isomorphic-git'
import http from 'isomorphic-git/http/node'

const [step, ...args] = process.argv.slice(2)

const steps = {
  async list (url) {
    for (const ref of await git.listServerRefs({ http, url })) console.log(ref.oid, ref.ref)
  },
  clone: (url, dir) => git.clone({ fs, http, dir, url }),
  depth: (url, dir) => git.clone({ fs, http, dir, url, depth: 1 }),
  tag: (url, dir, tag) => git.clone({ fs, http, dir, url, ref: tag, singleBranch: true, depth: 1 }),
  async commit (url, dir, oid) {
    await git.init({ fs, dir })
    await git.addRemote({ fs, dir, remote: 'origin', url })
    await git.fetch({ fs, http, dir, ref: oid, remoteRef: oid, singleBranch: true, depth: 1 })
    await git.checkout({ fs, dir, ref: oid })
  },
  fetch: dir => git.fetch({ fs, http, dir, tags: true }),
  fetchdepth: dir => git.fetch({ fs, http, dir, tags: true, depth: 1 })
}

try {
  await steps[step](...args)
} catch (err) {
  console.error(String(err))
  process.exitCode = 1
}
