//! What one layer says: who owns its files, and which accounts it has.

use std::collections::BTreeMap;
use std::io;

use super::blocks::Source;
use super::store::{Blob, Part};
use super::tar;
use super::tree::Node;
use crate::map::MAX_ID;
use crate::sys::pipe::Program;

/// Of /etc/passwd and /etc/group, so many bytes are read, and so many entries.
const MAX_TABLE: u64 = 1 << 18;
const MAX_ACCOUNTS: usize = 4096;
/// No longer link can be made (PATH_MAX).
const MAX_LINK: usize = 4095;
/// After its end mark, a tar may have so many bytes of padding. More are not unpacked.
const MAX_PADDING: u64 = 1 << 20;

/// Owners of files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// How many files each id owns.
    pub files: BTreeMap<u32, u64>,
    /// Files of ids beyond the first 65536 different ones (fewer where there are many images), which are not listed.
    pub unlisted: u64,
}

/// A line of /etc/passwd or /etc/group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// The user id; 0 in a group's line.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// A group's users, with commas between them.
    pub members: String,
}

impl Account {
    /// The one or the other.
    pub fn id(&self, group: bool) -> u32 {
        if group { self.gid } else { self.uid }
    }
}

/// What a layer says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Layer {
    /// Who owns its files, their groups, and the uids and gids that their extended attributes name.
    pub ids: [Owners; 4],
    /// Paths of the layers below whose content it hides, and whether it hides the paths themselves.
    pub hides: Vec<(String, bool)>,
    /// What it has at watched paths, and at those that lead there.
    pub nodes: Vec<(String, Node)>,
}

impl Owners {
    /// Counts so many files of an id, if it is listed or one of the first `most` ids.
    pub fn count(&mut self, id: u32, files: u64, most: usize) {
        let room = self.files.len() < most;
        match self.files.get_mut(&id) {
            Some(n) => *n += files,
            None if room => drop(self.files.insert(id, files)),
            None => self.unlisted += files,
        }
    }

    /// Counts those of another layer too.
    pub fn add(&mut self, other: &Owners, most: usize) {
        self.unlisted += other.unlisted;
        for (id, files) in &other.files {
            self.count(*id, *files, most);
        }
    }
}

/// Reads a layer: a tar, plain or compressed. At most `most` different owners are listed. `tick` is told how many more of
/// the blob's bytes are behind.
pub fn read(blob: &Blob, watched: &[String], most: usize, tick: &mut dyn FnMut(u64)) -> Result<Layer, String> {
    let part = blob.part(tick);
    match blob.compressed_with().map_err(|e| e.to_string())? {
        None => scan(&mut { part }, watched, most),
        Some(name) => {
            let program = Program::start(name, c"-dc").map_err(|e| {
                let name = name.to_string_lossy();
                format!("cannot start {name}, which is to unpack it: {e}")
            })?;
            let mut unpacked = Unpacked { program, part };
            let layer = scan(&mut unpacked, watched, most)?;
            unpacked.check_end()?;
            Ok(layer)
        }
    }
}

/// Reads the tar.
fn scan(source: &mut dyn Source, watched: &[String], most: usize) -> Result<Layer, String> {
    let below =
        |path: &str, to: &str| to.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let is_watched = |path: &str| path.is_empty() || watched.iter().any(|to| below(path, to));
    let mut layer = Layer::default();
    let mut reader = tar::Reader::new(source);
    while let Some(entry) = reader.next()? {
        for (uid, gid) in [Some((entry.uid, entry.gid)), entry.own].into_iter().flatten() {
            layer.ids[0].count(uid, 1, most);
            layer.ids[1].count(gid, 1, most);
        }
        for (ids, of) in reader.attributes().iter().zip(&mut layer.ids[2..]) {
            ids.iter().for_each(|id| of.count(*id, 1, most));
        }
        let path = String::from_utf8_lossy(reader.path());
        let path = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect::<Vec<_>>().join("/");
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
        if let Some(hidden) = name.strip_prefix(".wh.") {
            let hides = match hidden {
                ".wh..opq" => (folder.to_owned(), false),
                hidden => (path[..path.len() - name.len()].to_owned() + hidden, true),
            };
            if is_watched(&hides.0) && !layer.hides.contains(&hides) {
                layer.hides.push(hides);
            }
        } else if is_watched(&path) {
            let to = String::from_utf8_lossy(reader.link());
            let node = match entry.kind {
                b'5' => Node::Folder,
                b'1' | b'2' if to.len() > MAX_LINK => Node::File(Vec::new()),
                b'2' => Node::Link(to.into_owned()),
                b'1' => Node::Link(format!("/{to}")),
                b'0' if !entry.sparse => Node::File(reader.data(MAX_TABLE)?),
                _ => Node::File(Vec::new()),
            };
            layer.nodes.retain(|(other, _)| *other != path);
            layer.nodes.push((path, node));
        }
    }
    Ok(layer)
}

/// The lines of passwd(5), or those of group(5). Lines that are not like that, as the `+` of NIS, are left out. Also,
/// whether that is all.
pub fn accounts(text: &[u8], groups: bool) -> (Vec<Account>, bool) {
    let account = |line: &[u8]| {
        let line = std::str::from_utf8(line).ok()?.trim();
        let fields: Vec<&str> = line.splitn(5, ':').collect();
        let id = |n: usize| fields.get(n)?.trim().parse().ok().filter(|id| *id <= MAX_ID);
        let (uid, gid, members) = if groups { (0, id(2)?, fields.get(3)) } else { (id(2)?, id(3)?, None) };
        let members = members.copied().unwrap_or_default().to_owned();
        Some(Account { name: (*fields.first()?).to_owned(), uid, gid, members }).filter(|_| !line.starts_with('#'))
    };
    let mut all = Vec::new();
    for line in text.split(|b| *b == b'\n') {
        all.extend(account(line));
    }
    let whole = all.len() <= MAX_ACCOUNTS && (text.len() as u64) < MAX_TABLE;
    all.truncate(MAX_ACCOUNTS);
    (all, whole)
}

/// A blob as a program unpacks it.
struct Unpacked<'a> {
    program: Program,
    part: Part<'a>,
}

impl Unpacked<'_> {
    /// Whether it ends well after the tar's end: what is damaged may lack files.
    fn check_end(&mut self) -> Result<(), String> {
        let mut rest = [0; 4096];
        let mut passed = 0;
        while passed <= MAX_PADDING {
            match self.read(&mut rest).map_err(|e| format!("after the tar's end: {e}"))? {
                0 => break,
                read => passed += read as u64,
            }
        }
        Ok(())
    }
}

impl Source for Unpacked<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let part = &mut self.part;
        self.program.read(into, &mut |more| part.read(more))
    }

    fn pass(&mut self, _count: u64) -> u64 {
        0
    }
}

/// What a layer of these members says, for tests.
#[cfg(test)]
pub fn scanned(members: &[Vec<u8>], watched: &[String]) -> Layer {
    use super::testing::{Bytes, archive};
    scan(&mut Bytes { left: &archive(members), piped: true }, watched, 100).unwrap()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bytes, acl, file, link, pax};
    use super::*;

    fn scanned(members: &[Vec<u8>]) -> Layer {
        super::scanned(members, &["etc/passwd".to_owned()])
    }

    #[test]
    fn counts_owners() {
        let own = pax(b'g', &[("uid", "70000")]);
        let layer =
            scanned(&[file("a", 5, 6, b"x"), file("b", 5, 7, b""), link("c", b'2', "a"), own, file("d", 5, 6, b"")]);
        assert_eq!(layer.ids[0].files, [(0, 1), (5, 3), (70_000, 1)].into());
        assert_eq!(layer.ids[1].files, [(0, 1), (6, 3), (7, 1)].into());
        // An empty layer is one of no bytes.
        assert_eq!(scan(&mut Bytes { left: b"", piped: false }, &[], 100), Ok(Layer::default()));
    }

    #[test]
    fn lists_so_many_owners() {
        let files: Vec<Vec<u8>> = (0..300).map(|i| file("f", i % 150, 9, b"")).collect();
        let layer = scanned(&files);
        assert_eq!((layer.ids[0].files.len(), layer.ids[0].unlisted), (100, 100));
        assert!(layer.ids[0].files.iter().eq((0..100).map(|i| (i, 2)).collect::<BTreeMap<u32, u64>>().iter()));
        assert_eq!(layer.ids[1], Owners { files: [(9, 300)].into(), unlisted: 0 });
        let mut sum = Owners::default();
        sum.add(&layer.ids[0], 50);
        sum.add(&layer.ids[1], 50);
        assert_eq!((sum.files.len(), sum.files[&9], sum.unlisted), (50, 302, 200));
    }

    #[test]
    fn reads_ids_of_extended_attributes() {
        let none = u32::MAX;
        let access = acl(&[(1, none), (2, 70_000), (4, none), (8, 80_000), (16, none), (32, none)]);
        let capabilities = [&[1, 0, 0, 3][..], &[0; 16], &70_002u32.to_le_bytes()].concat();
        let layer = scanned(&[
            pax(b'x', &[("SCHILY.xattr.system.posix_acl_access", &access)]),
            file("a", 0, 0, b""),
            pax(b'x', &[("SCHILY.xattr.system.posix_acl_default", &acl(&[(2, 70_001), (2, none)]))]),
            file("b", 0, 0, b""),
            pax(b'x', &[("SCHILY.xattr.security.capability", &capabilities)]),
            file("c", 0, 0, b""),
            // Those of version 2 have no root; the others are no ids.
            pax(b'x', &[("SCHILY.xattr.security.capability", &[&[1, 0, 0, 2][..], &[9; 16]].concat())]),
            file("d", 0, 0, b""),
            pax(b'x', &[("SCHILY.xattr.user.x", &access), ("SCHILY.xattr.system.posix_acl_access", &vec![2])]),
            file("e", 0, 0, b""),
        ]);
        let ids = layer.ids.map(|of| of.files.into_keys().collect::<Vec<_>>());
        assert_eq!(ids[2..], [vec![70_000, 70_001, 70_002], vec![80_000]]);
    }

    #[test]
    fn reads_accounts() {
        let account =
            |name: &str, uid, gid, members: &str| Account { name: name.into(), uid, gid, members: members.into() };
        let text = "root:x:0:0:root:/root:/bin/sh\n+::::::\n# no\n#no:x:1:1\n\n app:x:70000:80000::/:/bin/sh\r\nbad:x:x:1\n\
                    over:x:4294967295:1\nlast:x:1:2";
        let all = vec![account("root", 0, 0, ""), account("app", 70_000, 80_000, ""), account("last", 1, 2, "")];
        assert_eq!(accounts(text.as_bytes(), false), (all, true));
        let groups = vec![account("root", 0, 0, ""), account("staff", 0, 50, "app,root")];
        assert_eq!(accounts(b"root:x:0:\nstaff:x:50:app,root\r\n", true), (groups, true));
        let endless = "a:x:1:1\n".repeat(4097);
        assert_eq!(accounts(endless.as_bytes(), false).0.len(), 4096);
        assert!(!accounts(endless.as_bytes(), false).1 && !accounts(&[b'\n'; MAX_TABLE as usize], false).1);
        // A long table is not read whole, and what follows it is.
        let layer = scanned(&[file("etc/passwd", 0, 0, &vec![b'x'; 1 << 20]), file("next", 9, 9, b"")]);
        assert_eq!(layer.nodes, [("etc/passwd".to_owned(), Node::File(vec![b'x'; MAX_TABLE as usize]))]);
        assert_eq!(layer.ids[0].files, [(0, 1), (9, 1)].into());
    }
}
