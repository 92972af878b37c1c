//! Where a map comes from: this process, another one, or a file.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::Read;

use crate::map::cut;
use crate::map::idmap::IdMap;
use crate::pod::presence::shares_ours;

/// More than any map that the kernel takes.
const MAX_FILE: u64 = 64 * 1024;

/// Which map is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// That of this process.
    #[default]
    Here,
    /// That of another process.
    Pid(u32),
    /// A file's, for users and groups alike.
    File(OsString),
}

/// The maps of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maps {
    /// Users.
    pub uids: IdMap,
    /// Groups.
    pub gids: IdMap,
    /// Whose ids the second column has, by `user_namespaces(7)`: those of the namespace around, if reader and process
    /// share one, else the reader's own.
    pub outside: &'static str,
    /// Whether these are the maps of our own namespace.
    pub own: bool,
}

impl Maps {
    /// Reads them.
    pub fn read(source: &Source) -> Result<Maps, String> {
        let process = match source {
            Source::File(path) => {
                let uids = file(path)?;
                return Ok(Maps { gids: uids.clone(), uids, outside: "outside", own: false });
            }
            Source::Here => "self".to_owned(),
            Source::Pid(pid) => pid.to_string(),
        };
        let process = format!("/proc/{process}");
        let (uids, gids) = (proc_map(&process, "uid_map")?, proc_map(&process, "gid_map")?);
        let own = shares_ours(&process, "user");
        Ok(Maps { uids, gids, outside: if own { "around the node" } else { "our ids" }, own })
    }

    /// The maps to show, with names: both, or one where they are equal and may be merged.
    pub fn kinds(&self, gids_only: bool, merge: bool) -> Vec<(&'static str, &IdMap)> {
        match (gids_only, merge && self.uids == self.gids) {
            (true, _) => vec![("gid", &self.gids)],
            (false, true) => vec![("id", &self.uids)],
            (false, false) => vec![("uid", &self.uids), ("gid", &self.gids)],
        }
    }
}

/// The heading for a kind of `Maps::kinds`.
pub fn heading(kind: &str) -> &'static str {
    match kind {
        "uid" => "uids",
        "gid" => "gids",
        _ => "uids and gids",
    }
}

/// The map of a process by its folder in /proc.
pub fn proc_map(process: &str, name: &str) -> Result<IdMap, String> {
    let path = format!("{process}/{name}");
    IdMap::parse(&read(&path, MAX_FILE)?).map_err(|e| format!("{path}: {e}"))
}

/// The text of a file of at most so many bytes.
pub fn read(path: &str, most: u64) -> Result<String, String> {
    let mut bytes = Vec::new();
    let done = File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
    done.map_err(|e| format!("cannot read {:?}: {e}", cut(path)))?;
    if bytes.len() as u64 > most {
        return Err(format!("cannot read {:?}: it is over {most} bytes", cut(path)));
    }
    String::from_utf8(bytes).map_err(|_| format!("cannot read {:?}: it is not text", cut(path)))
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

/// Writes to the end of a text. A function of its own, since `+= &format!()` everywhere is a larger program.
pub fn put(text: &mut String, words: fmt::Arguments) {
    // Writing to a String cannot fail.
    let _ = fmt::Write::write_fmt(text, words);
}

/// An option's value.
pub fn word(parser: &mut lexopt::Parser) -> Result<String, String> {
    parser.value().and_then(lexopt::ValueExt::string).map_err(|e| e.to_string())
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
        let own = Maps::read(&Source::Here).unwrap();
        assert_eq!(own, Maps::read(&Source::Pid(std::process::id())).unwrap());
        assert!(own.own && !own.kinds(true, true).is_empty());
        let gone = Maps::read(&Source::Pid(i32::MAX as u32)).unwrap_err();
        assert!(gone.starts_with("cannot read \"/proc/2147483647/uid_map\": "), "{gone}");
        for text in ["0", "+1", "-1", "x", "4294967295", ""] {
            assert_eq!(pid(text).unwrap_err(), format!("{text:?} is not a process id"));
        }
    }
}
