//! What one layer says: who owns its files, and which accounts it has.

use std::collections::BTreeMap;
use std::io;

use super::blocks::Source;
use super::store::{Blob, Part};
use super::tar;
use crate::map::MAX_ID;
use crate::sys::pipe::Program;

/// Of /etc/passwd and /etc/group, so many bytes are read, and so many entries.
const MAX_TABLE: u64 = 1 << 18;
const MAX_ACCOUNTS: usize = 4096;
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
}

/// What a layer does to /etc/passwd or /etc/group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Table {
    /// Nothing: that of the layers below stays.
    #[default]
    Untouched,
    /// Removes it, or makes it something that is not read: a link.
    Removed,
    /// Has it.
    Is(Vec<Account>),
}

/// What a layer says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Layer {
    /// Who owns its files.
    pub uids: Owners,
    /// The groups of its files.
    pub gids: Owners,
    /// /etc/passwd.
    pub passwd: Table,
    /// /etc/group.
    pub group: Table,
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

impl Table {
    /// That of the layer above, unless it leaves this one as it is.
    pub fn under(self, above: &Table) -> Table {
        if *above == Table::Untouched { self } else { above.clone() }
    }

    /// Its entries.
    pub fn accounts(&self) -> &[Account] {
        match self {
            Table::Is(accounts) => accounts,
            _ => &[],
        }
    }
}

/// Reads a layer: a tar, plain or compressed with gzip or zstd. At most `most` different owners are listed. `tick` is
/// told how many more of the blob's bytes are behind.
pub fn read(blob: &Blob, most: usize, tick: &mut dyn FnMut(u64)) -> Result<Layer, String> {
    let part = blob.part(tick);
    match blob.compressed_with().map_err(|e| e.to_string())? {
        None => scan(&mut { part }, most),
        Some(name) => {
            let program = Program::start(name, c"-dc").map_err(|e| {
                let name = name.to_string_lossy();
                format!("cannot start {name}, which is to unpack it: {e}")
            })?;
            let mut unpacked = Unpacked { program, part };
            let layer = scan(&mut unpacked, most)?;
            unpacked.check_end()?;
            Ok(layer)
        }
    }
}

/// Reads the tar.
fn scan(source: &mut dyn Source, most: usize) -> Result<Layer, String> {
    let mut layer = Layer::default();
    let mut reader = tar::Reader::new(source);
    while let Some(entry) = reader.next()? {
        layer.uids.count(entry.uid, 1, most);
        layer.gids.count(entry.gid, 1, most);
        if let Some((uid, gid)) = entry.own {
            layer.uids.count(uid, 1, most);
            layer.gids.count(gid, 1, most);
        }
        for (table, name, fields) in [
            (&mut layer.passwd, b"passwd".as_slice(), [2, 3]),
            (&mut layer.group, b"group".as_slice(), [usize::MAX, 2]),
        ] {
            match touches(reader.path(), name, entry.kind) {
                Touch::No => {}
                // A layer's own file stays, whatever the layer hides of those below.
                Touch::Hides if *table != Table::Untouched => {}
                Touch::Hides => *table = Table::Removed,
                Touch::Is if entry.kind == b'0' && !entry.sparse => {
                    *table = Table::Is(accounts(&reader.data(MAX_TABLE)?, fields));
                }
                Touch::Is => *table = Table::Removed,
            }
        }
    }
    Ok(layer)
}

enum Touch {
    No,
    Is,
    Hides,
}

/// What an entry does to /etc/NAME.
fn touches(path: &[u8], name: &[u8], kind: u8) -> Touch {
    let mut parts = path.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b"."));
    match (parts.next(), parts.next(), parts.next()) {
        (Some(b".wh..wh..opq" | b".wh.etc"), None, None) => Touch::Hides,
        (Some(b"etc"), None, None) if kind != b'5' => Touch::Hides,
        (Some(b"etc"), Some(b".wh..wh..opq"), None) => Touch::Hides,
        (Some(b"etc"), Some(file), None) if file == name => Touch::Is,
        (Some(b"etc"), Some(file), None) if file.strip_prefix(b".wh.") == Some(name) => Touch::Hides,
        _ => Touch::No,
    }
}

/// The lines of passwd(5) or group(5), with the fields that uid and gid are in. Lines that are not like that, as the
/// `+` of NIS, are left out.
fn accounts(text: &[u8], [uid, gid]: [usize; 2]) -> Vec<Account> {
    let account = |line: &[u8]| {
        let fields: Vec<&str> = std::str::from_utf8(line).ok()?.splitn(5, ':').collect();
        let id = |n: usize| fields.get(n)?.trim().parse().ok().filter(|id| *id <= MAX_ID);
        let uid = if uid == usize::MAX { 0 } else { id(uid)? };
        Some(Account { name: (*fields.first()?).to_owned(), uid, gid: id(gid)? })
    };
    text.split(|b| *b == b'\n').filter_map(account).take(MAX_ACCOUNTS).collect()
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

#[cfg(test)]
mod tests {
    use super::super::testing::{Bytes, Header, archive, file, link, pax};
    use super::*;

    fn scanned(members: &[Vec<u8>]) -> Layer {
        scan(&mut Bytes { left: &archive(members), piped: true }, 100).unwrap()
    }

    fn account(name: &str, uid: u32, gid: u32) -> Account {
        Account { name: name.into(), uid, gid }
    }

    const ROOT: &str = "root:x:0:0:root:/root:/bin/sh\n";

    #[test]
    fn counts_owners() {
        let own = pax(b'g', &[("uid", "70000")]);
        let layer =
            scanned(&[file("a", 5, 6, b"x"), file("b", 5, 7, b""), link("c", b'2', "a"), own, file("d", 5, 6, b"")]);
        assert_eq!(layer.uids.files, [(0, 1), (5, 3), (70_000, 1)].into());
        assert_eq!(layer.gids.files, [(0, 1), (6, 3), (7, 1)].into());
        // An empty layer is one of no bytes.
        assert_eq!(scan(&mut Bytes { left: b"", piped: false }, 100), Ok(Layer::default()));
    }

    #[test]
    fn lists_so_many_owners() {
        let files: Vec<Vec<u8>> = (0..300).map(|i| file("f", i % 150, 9, b"")).collect();
        let layer = scanned(&files);
        assert_eq!((layer.uids.files.len(), layer.uids.unlisted), (100, 100));
        assert!(layer.uids.files.iter().eq((0..100).map(|i| (i, 2)).collect::<BTreeMap<u32, u64>>().iter()));
        assert_eq!(layer.gids, Owners { files: [(9, 300)].into(), unlisted: 0 });
        let mut sum = Owners::default();
        sum.add(&layer.uids, 50);
        sum.add(&layer.gids, 50);
        assert_eq!((sum.files.len(), sum.files[&9], sum.unlisted), (50, 302, 200));
    }

    #[test]
    fn reads_accounts() {
        let text =
            format!("{ROOT}+::::::\n# no\n\napp:x:70000:80000::/:/bin/sh\nbad:x:x:1\nover:x:4294967295:1\nlast:x:1:2");
        let group = "root:x:0:\nstaff:x:50:app,root\n";
        let layer =
            scanned(&[file("./etc/passwd", 0, 0, text.as_bytes()), file("/etc//group", 0, 0, group.as_bytes())]);
        let all = vec![account("root", 0, 0), account("app", 70_000, 80_000), account("last", 1, 2)];
        assert_eq!(layer.passwd, Table::Is(all));
        assert_eq!(layer.group, Table::Is(vec![account("root", 0, 0), account("staff", 0, 50)]));
        let endless = "a:x:1:1\n".repeat(100_000);
        let layer = scanned(&[file("etc/passwd", 0, 0, endless.as_bytes()), file("next", 9, 9, b"")]);
        assert_eq!(layer.passwd.accounts().len(), 4096);
        assert_eq!(layer.uids.files, [(0, 1), (9, 1)].into());
    }

    #[test]
    fn knows_what_hides_accounts() {
        let root = Table::Is(vec![account("root", 0, 0)]);
        let passwd = || file("etc/passwd", 0, 0, ROOT.as_bytes());
        let empty = |path| file(path, 0, 0, b"");
        for (members, is) in [
            (vec![], Table::Untouched),
            (
                vec![empty("etc/passwd-"), empty("usr/etc/passwd"), empty("passwd"), empty("etc/.wh.passwd2")],
                Table::Untouched,
            ),
            (vec![Header::new("etc/", b'5', 0, 0, 0).with(b"")], Table::Untouched),
            (vec![empty("etc/.wh.passwd")], Table::Removed),
            (vec![empty("./etc/.wh..wh..opq")], Table::Removed),
            (vec![empty(".wh.etc")], Table::Removed),
            (vec![empty(".wh..wh..opq")], Table::Removed),
            (vec![link("etc", b'2', "usr/etc")], Table::Removed),
            (vec![passwd(), link("etc/passwd", b'2', "../nix/passwd")], Table::Removed),
            (vec![link("etc/passwd", b'1', "x")], Table::Removed),
            // What hides is about the layers below, before or after the file.
            (vec![passwd(), empty("etc/.wh..wh..opq")], root.clone()),
            (vec![empty("etc/.wh.passwd"), passwd()], root.clone()),
        ] {
            let found = scanned(&members).passwd;
            assert_eq!(found, is);
            let together = root.clone().under(&found);
            assert_eq!(together, if is == Table::Untouched { root.clone() } else { is });
        }
    }
}
