//! Whose maps are asked for: this process's, another one's, or a file's.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};

use lexopt::prelude::*;

use crate::map::cut;
use crate::map::idmap::IdMap;
use crate::map::kind::{Both, Kind};
use crate::pod::presence::shares_ours;

/// More than any map that the kernel takes, in bytes.
const MAX_FILE: u64 = 64 * 1024;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Whose {
    #[default]
    Ours,
    Pid(u32),
    /// A file's, for users and groups alike; "-" is stdin.
    File(OsString),
}

impl Whose {
    /// Takes the value of `--pid` or `--map`, once. `done` says in the error what is done with the maps.
    pub fn set(&mut self, is_pid: bool, parser: &mut lexopt::Parser, done: &str) -> Result<(), lexopt::Error> {
        if *self != Whose::Ours {
            return Err(format!("only one --pid or --map can be {done}").into());
        }
        let value = parser.value()?;
        *self = if is_pid { Whose::Pid(pid(&value.string()?)?) } else { Whose::File(value) };
        Ok(())
    }
}

/// A user namespace by its maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    pub maps: Both<IdMap>,
    /// Whose ids the second column has, by `user_namespaces(7)`: those of the namespace around, if reader and process
    /// share one, else the reader's own.
    pub outside: &'static str,
    /// Whether it is the one that we are in.
    pub own: bool,
}

impl Namespace {
    pub fn read(whose: &Whose) -> Result<Namespace, String> {
        let process = match whose {
            Whose::File(path) => {
                let map = file(path)?;
                let maps = Both { uids: map.clone(), gids: map };
                return Ok(Namespace { maps, outside: "outside", own: false });
            }
            Whose::Ours => "/proc/self".to_owned(),
            Whose::Pid(pid) => format!("/proc/{pid}"),
        };
        let own = shares_ours(&process, "user");
        Ok(Namespace { maps: proc_maps(&process)?, outside: if own { "around the node" } else { "our ids" }, own })
    }
}

/// What is told of: groups only, or users and groups; these at once (None) if they may be merged and are alike in all maps.
pub fn kinds(gids_only: bool, merge: bool, maps: &[&Both<IdMap>]) -> &'static [Option<Kind>] {
    match (gids_only, merge && maps.iter().all(|maps| maps.uids == maps.gids)) {
        (true, _) => &[Some(Kind::Gid)],
        (false, true) => &[None],
        (false, false) => &[Some(Kind::Uid), Some(Kind::Gid)],
    }
}

/// The map of a kind that `kinds` gives.
pub fn map_of(maps: &Both<IdMap>, kind: Option<Kind>) -> &IdMap {
    maps.of(kind.unwrap_or(Kind::Uid))
}

pub fn heading(kind: Option<Kind>) -> &'static str {
    match kind {
        Some(Kind::Uid) => "uids",
        Some(Kind::Gid) => "gids",
        None => "uids and gids",
    }
}

/// The maps of a process by its folder in /proc.
pub fn proc_maps(process: &str) -> Result<Both<IdMap>, String> {
    Both::try_new(|kind| {
        let path = format!("{process}/{kind}_map");
        IdMap::parse(&read(&path, MAX_FILE)?).map_err(|e| format!("{path}: {e}"))
    })
}

/// A file as far as so many bytes.
pub fn bytes(path: &str, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The text of a file of at most so many bytes.
pub fn read(path: &str, most: u64) -> Result<String, String> {
    let text = match bytes(path, most + 1) {
        Err(e) => Err(e.to_string()),
        Ok(bytes) if bytes.len() as u64 > most => Err(format!("it is over {most} bytes")),
        Ok(bytes) => String::from_utf8(bytes).map_err(|_| "it is not text".into()),
    };
    text.map_err(|why| format!("cannot read {:?}: {why}", cut(path)))
}

/// A file's text as far as so many bytes; empty if it cannot be read or is no regular file: a FIFO would wait for a writer.
pub fn read_or_empty(path: &str, most: u64) -> String {
    if !fs::metadata(path).is_ok_and(|meta| meta.is_file()) {
        return String::new();
    }
    String::from_utf8_lossy(&bytes(path, most).unwrap_or_default()).into_owned()
}

/// A file with a map, or "-" for stdin: lines of `container host count`, also written `container:host:amount`.
pub fn file(path: &OsStr) -> Result<IdMap, String> {
    let path = path.to_str().ok_or_else(|| format!("{path:?} is not a path in UTF-8"))?;
    let text = read(if path == "-" { "/dev/stdin" } else { path }, MAX_FILE)?;
    let map = parse(&text).map_err(|e| format!("{:?}: {e}", cut(path)))?;
    if map.extents().is_empty() { Err(format!("{:?} is an empty id map", cut(path))) } else { Ok(map) }
}

fn parse(text: &str) -> Result<IdMap, String> {
    IdMap::parse(&text.trim_end().replace(':', " ")).map_err(|e| e.to_string())
}

/// A process id, as options take it.
pub fn pid(text: &str) -> Result<u32, String> {
    let pid = text.parse().ok().filter(|pid| *pid > 0 && *pid <= i32::MAX as u32 && !text.starts_with('+'));
    pid.ok_or_else(|| format!("{:?} is not a process id", cut(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_notations_are_maps() {
        let map = parse("0:500000:10\n 10  600000   1 \n\n").unwrap();
        assert_eq!(map.to_string(), "0 500000 10\n10 600000 1\n");
        assert_eq!(parse("0:1").unwrap_err(), "line 1 of the id map, \"0 1\": three numbers are needed");
        assert_eq!(parse("x").unwrap_err(), "line 1 of the id map, \"x\": not a decimal number");
    }

    #[test]
    fn files_are_read_with_care() {
        assert_eq!(file("/dev/null".as_ref()).unwrap_err(), "\"/dev/null\" is an empty id map");
        assert_eq!(file("/dev/zero".as_ref()).unwrap_err(), "cannot read \"/dev/zero\": it is over 65536 bytes");
        assert!(file("/".as_ref()).unwrap_err().starts_with("cannot read \"/\": "));
        assert!(file("/bin/sh".as_ref()).is_err());
    }

    #[test]
    fn reads_this_process_and_refuses_none() {
        let own = Namespace::read(&Whose::Ours).unwrap();
        assert_eq!(own, Namespace::read(&Whose::Pid(std::process::id())).unwrap());
        assert!(own.own);
        let gone = Namespace::read(&Whose::Pid(i32::MAX as u32)).unwrap_err();
        assert!(gone.starts_with("cannot read \"/proc/2147483647/uid_map\": "), "{gone}");
        for text in ["0", "+1", "-1", "x", "4294967295", ""] {
            assert_eq!(pid(text).unwrap_err(), format!("{text:?} is not a process id"));
        }
    }
}
