// gix as a client of the matrix. clients_test.go says what the arguments are.
use std::{env, error::Error, num::NonZeroU32, path::Path, sync::atomic::AtomicBool};

use gix::{
    clone::PrepareFetch,
    progress::Discard,
    remote::{Direction, fetch::Shallow, fetch::Tags, ref_map},
};

type Failure = Box<dyn Error + Send + Sync>;
type Result = std::result::Result<(), Failure>;

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["list", url] => list(url),
        ["clone", url, dir] => prepare(url, dir).and_then(checkout),
        ["depth", url, dir] => prepare(url, dir).and_then(|p| checkout(p.with_shallow(depth()))),
        ["tag", url, dir, tag] => prepare(url, dir)
            .and_then(|p| checkout(p.with_ref_name(Some(tag))?.with_shallow(depth()))),
        ["commit", url, dir, id] => prepare(url, dir)
            .and_then(|p| checkout(p.with_revision(Some(id))?.with_shallow(depth()))),
        ["fetch", dir] => fetch(dir, Shallow::NoChange),
        ["fetchdepth", dir] => fetch(dir, depth()),
        _ => Err("unknown step".into()),
    };
    if let Err(err) = done {
        eprintln!("{err:?}");
        std::process::exit(1);
    }
}

fn depth() -> Shallow {
    Shallow::DepthAtRemote(NonZeroU32::MIN)
}

fn prepare(url: &str, dir: &str) -> std::result::Result<PrepareFetch, Failure> {
    let prepared = gix::prepare_clone(url, Path::new(dir))?;
    Ok(prepared.configure_remote(|remote| Ok(remote.with_fetch_tags(Tags::All))))
}

fn checkout(mut prepared: PrepareFetch) -> Result {
    let never = AtomicBool::new(false);
    let (mut fetched, _) = prepared.fetch_then_checkout(Discard, &never)?;
    fetched.main_worktree(Discard, &never)?;
    Ok(())
}

fn list(url: &str) -> Result {
    let dir = env::temp_dir().join(format!("packbase-gix-{}", std::process::id()));
    let repo = gix::init_bare(&dir)?;
    let remote = repo
        .remote_at(url)?
        .with_refspecs(["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"], Direction::Fetch)?;
    let (map, _) = remote
        .connect(Direction::Fetch)?
        .ref_map(Discard, ref_map::Options::default())?;
    for r in &map.remote_refs {
        if let (name, Some(id), _) = r.unpack() {
            println!("{id} {name}");
        }
    }
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

fn fetch(dir: &str, shallow: Shallow) -> Result {
    let repo = gix::open(dir)?;
    let remote = repo.find_remote("origin")?.with_fetch_tags(Tags::All);
    remote
        .connect(Direction::Fetch)?
        .prepare_fetch(Discard, ref_map::Options::default())?
        .with_shallow(shallow)
        .receive(Discard, &AtomicBool::new(false))?;
    Ok(())
}
