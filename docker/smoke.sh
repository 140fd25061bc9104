#!/usr/bin/env bash
# Runs compose.yml for real, on a Docker engine: everything comes up, mirrors
# packages, loses workers and Redis, serves by TLS and from edges while the
# central is away, is backed up and restored, and goes away.
#
#	docker/smoke.sh
#
# It needs Docker with Compose 2.24 or newer, git and curl. ZIG names a zig to
# fetch with. GO_IMAGE, DEBIAN_IMAGE, POSTGRES_IMAGE, REDIS_IMAGE and CADDY_IMAGE
# name other images. It leaves nothing but the images packbase-smoke,
# packbase-smoke-one and packbase-smoke-upstream, and touches no other project.
set -euo pipefail
cd "$(dirname "$0")/.."

zig=${ZIG:-$(command -v zig || true)}
work=$(mktemp -d)
port=${SMOKE_PORT:-18080} # and the six after it
api=http://127.0.0.1:$port
edge=http://127.0.0.1:$((port + 1))
replica=http://127.0.0.1:$((port + 2))
https=https://localhost:$((port + 3))
token=$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n')

# Nothing of the operator's own .env.
export PACKBASE_ENV_FILE=$work/env PACKBASE_IMAGE=packbase-smoke PACKBASE_VERSION=smoke
cat >"$work/env" <<END
POSTGRES_PASSWORD=$token
PACKBASE_UPSTREAM_ALLOW=upstream:8000
PACKBASE_PUBLISH=127.0.0.1:$port
EDGE_PUBLISH=127.0.0.1:$((port + 1))
HTTPS_PUBLISH=127.0.0.1:$((port + 3))
HTTP_PUBLISH=127.0.0.1:$((port + 4))
END
cp "$work/env" "$work/edge.env"
{
	echo "PACKBASE_TOKEN="
	echo "PACKBASE_CENTRAL=http://api:8080"
	echo "EDGE_PUBLISH=127.0.0.1:$((port + 2))"
} >>"$work/edge.env"

central() {
	docker compose -p packbase-smoke --env-file "$work/env" --progress quiet -f compose.yml -f docker/smoke/central.yml \
		--profile tls --profile edge "$@"
}
follower() {
	PACKBASE_ENV_FILE=$work/edge.env docker compose -p packbase-smoke-edge --env-file "$work/edge.env" --progress quiet \
		-f compose.yml -f docker/smoke/edge.yml "$@"
}
one() {
	PACKBASE_TOKEN=secret SMOKE_PORT=$((port + 5)) SMOKE_EDGE_PORT=$((port + 6)) docker compose --progress quiet -f docker/smoke/one.yml "$@"
}

finish() {
	local status=$?
	set +e
	if [[ $status != 0 ]]; then
		central ps -a
		central logs --no-color --tail 40
		follower logs --no-color --tail 40
		one logs --no-color --tail 40
		echo "FAILED" >&2
	fi
	# Networks go last: the edge hangs on the central's.
	one down -v -t 5 || status=1
	follower --profile '*' down -v -t 5 || status=1
	central --profile '*' down -v -t 5 || status=1
	rm -rf "$work"
	exit "$status"
}

started=$SECONDS
ok() { printf '%4ds  ok  %s\n' $((SECONDS - started)) "$*"; }
die() { echo "NOT OK: $*" >&2; exit 1; }

# want fails unless $2 has $1 in it.
want() { [[ $2 == *"$1"* ]] || die "want $1, got $2"; }

# eventually tries a command for a minute.
eventually() {
	local end=$((SECONDS + 60))
	until "$@" >/dev/null 2>&1; do
		if ((SECONDS > end)); then die "still not: $*"; fi
		sleep 0.2
	done
}

post() { curl -sS -H "Authorization: Bearer $token" -d "$2" "$1"; }
sum() { curl -fsS "$@" | sha256sum | cut -d' ' -f1; }
fetch() { post "$api/api/fetch$2" "{\"url\":\"git+http://upstream:8000/$1\"}"; }
serves() { curl -fsS "$1/p/$2/tag/v1.1.0.tar.gz" -o /dev/null; }

# zig_fetches fetches p0 by Git and as a tarball into an empty cache.
zig_fetches() {
	if [[ -z $zig ]]; then echo "      --  no zig: nothing fetched with it"; return; fi
	local git tarball
	rm -rf "$work/zig"
	git=$(ZIG_GLOBAL_CACHE_DIR=$work/zig "$zig" fetch "git+$1/p0#v1.1.0")
	rm -rf "$work/zig"
	tarball=$(ZIG_GLOBAL_CACHE_DIR=$work/zig "$zig" fetch "$1/p/p0/tag/v1.1.0.tar.gz")
	[[ $git == "$tarball" ]] || die "zig fetch: $git by Git, $tarball as a tarball"
	ok "zig fetch from $1: $git"
}

if said=$(central config 2>&1); then die "there is no token, and nobody minds"; fi
want "PACKBASE_TOKEN" "$said"
ok "without a token: $said"
echo "PACKBASE_TOKEN=$token" >>"$work/env"
trap finish EXIT

# One container with all of it, and an edge that has no more than its volume.
one up -d --build --wait
all=http://127.0.0.1:$((port + 5)) reader=http://127.0.0.1:$((port + 6))
want "so short that it can be guessed" "$(one logs central)"
for place in "$all" "$reader"; do eventually curl -fsS -o /dev/null "$place/p/hello/tag/v0.1.0.tar.gz"; done
want '"status":"ok"' "$(curl -sS -H 'Authorization: Bearer secret' -d '{"url":"git+http://upstream:8000/p0"}' "$all/api/fetch?wait=60")"
first=$(sum "$all/p/p0/tag/v1.1.0.tar.gz")
eventually serves "$reader" p0
[[ $(sum "$reader/p/p0/tag/v1.1.0.tar.gz") == "$first" ]] || die "the edge has other bytes"
zig_fetches "$reader"
want '"code":"read_only"' "$(curl -sS -d '{"url":"git+http://upstream:8000/p1"}' "$reader/api/fetch")"
! one exec -T edge touch /data/x 2>/dev/null || die "the edge can write"
one kill -s KILL central
one restart edge
eventually serves "$reader" p0
git clone -q "$reader/p0" "$work/from-reader"
one up -d --wait central
[[ $(sum "$all/p/p0/tag/v1.1.0.tar.gz") == "$first" ]] || die "after a kill the container has other bytes"
want '"status":"removed"' "$(curl -sS -H 'Authorization: Bearer secret' -d '{"package":"p0","tag":"v1.0.0","reason":"smoke"}' "$all/api/remove")"
gone() { [[ $(curl -s -o /dev/null -w '%{http_code}' "$1/p/p0/tag/v1.0.0.tar.gz") == 410 ]]; }
eventually gone "$reader"
one up -d --wait --force-recreate
eventually serves "$all" p0
eventually serves "$reader" p0
ok "one container: killed, started, recreated on its volume; an edge that may only read that, also while it was dead"
one down -v -t 20

central up -d --build --wait --scale worker=4
ok "up: $(central ps -q | wc -l) containers, image of $(($(docker image inspect -f '{{.Size}}' packbase-smoke) >> 20)) MiB"
for service in api worker edge; do
	state=$(central ps -q "$service" | sed -n 1p | xargs docker inspect -f '{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.Memory}}')
	want "65532:65532 true [ALL]" "$state"
done
ok "api, worker, edge: not root, root file system read-only, no capabilities"

want '"code":"unauthorized"' "$(curl -sS -d '{}' "$api/api/fetch")"
want '"status":"ok"' "$(fetch p0 '?wait=60')"
digest=$(sum "$api/p/p0/tag/v1.1.0.tar.gz")
ok "mirrored p0: $digest"
zig_fetches "$api"

eventually central cp caddy:/data/caddy/pki/authorities/local/root.crt "$work/root.crt"
tls=(--cacert "$work/root.crt" --http2)
[[ $(sum "${tls[@]}" "$https/p/p0/tag/v1.1.0.tar.gz") == "$digest" ]] || die "Caddy changes the tarball"
want "HTTP/2 200" "$(curl -sSI "${tls[@]}" -H 'Accept-Encoding: gzip' "$https/p/p0/tag/v1.1.0.tar.gz")"
GIT_SSL_CAINFO=$work/root.crt git clone -q "$https/p0" "$work/clone"
ok "Caddy: tarball and git clone by HTTPS and HTTP/2"

jobs=()
for n in {1..15}; do jobs+=("$(fetch "p$n" '' | grep -o '"job_id":"[^"]*"' | cut -d'"' -f4)"); done
eventually bash -c "curl -fsS $api/api/jobs?state=running | grep -q running"
docker kill -s KILL $(central ps -q worker | head -2) >/dev/null
central exec -T redis redis-cli flushall >/dev/null
ok "15 jobs: two of four workers killed, Redis emptied"
central up -d --scale worker=1 --no-recreate worker
central up -d --wait --scale worker=3 --no-recreate worker
for job in "${jobs[@]}"; do eventually bash -c "curl -fsS $api/api/jobs/$job | grep -q '\"state\":\"succeeded\"'"; done
for n in {1..15}; do serves "$api" "p$n"; done
ok "scaled to 1 and to 3: all 15 jobs succeeded, each package is served"

follower up -d --build --wait edge replicate
for n in {0..15}; do eventually serves "$replica" "p$n"; done
ok "an edge with its own Postgres has copied all"

central stop api worker redis
for place in "$edge" "$replica"; do
	[[ $(sum "$place/p/p0/tag/v1.1.0.tar.gz") == "$digest" ]] || die "$place has other bytes"
	want '"code":"read_only"' "$(post "$place/api/fetch" '{"url":"git+http://upstream:8000/p0"}')"
	zig_fetches "$place"
done
for service in api worker; do
	for id in $(central ps -aq "$service"); do
		code=$(docker inspect -f '{{.State.ExitCode}}' "$id")
		[[ $code == 0 || $code == 137 ]] || die "$service ended with $code"
	done
done
ok "api, workers and Redis stopped: both edges serve on, and refuse writes"
central up -d --wait

central exec -T postgres pg_dump -U packbase -Fc packbase >"$work/packbase.dump"
central run --rm -T files tar -c blobs >"$work/blobs.tar"
central --profile files down -v
central create
central run --rm -T files tar -x <"$work/blobs.tar"
central up -d --wait postgres
central exec -T postgres pg_restore -U packbase -d packbase --exit-on-error <"$work/packbase.dump"
central up -d --wait
central run --rm -T api fsck
[[ $(sum "$api/p/p0/tag/v1.1.0.tar.gz") == "$digest" ]] || die "the restored tarball is another"
zig_fetches "$api"
want '"status":"ok"' "$(fetch p0 '?wait=60')"
ok "backed up, everything lost, restored: fsck finds nothing, works on"

# An upgrade replaces all containers of ours. Who comes through Caddy waits a
# moment at most.
eventually central cp caddy:/data/caddy/pki/authorities/local/root.crt "$work/root.crt" # another one now
(
	while [[ ! -e $work/upgraded ]]; do
		curl -fsS -o /dev/null "${tls[@]}" "$https/p/p0/tag/v1.1.0.tar.gz" && echo served || echo failed
		sleep 0.1
	done >"$work/answers" 2>&1
) &
central up -d --wait --force-recreate --no-deps migrate api worker
touch "$work/upgraded"
wait
! grep -v served "$work/answers" || die "Caddy did not wait for the new api"
ok "migrated and recreated, as an upgrade does: $(grep -c served "$work/answers") downloads meanwhile, none failed"
docker stats --no-stream --format '      --  {{.Name}}: {{.MemUsage}}' $(central ps -q)
echo "PASS"
