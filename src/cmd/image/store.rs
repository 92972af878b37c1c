//! Where an image's parts are: a folder, or an archive whose members are found by name.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::blocks::Source;
use super::tar;
use crate::cmd::json::Value;
use crate::sys::file;

/// An archive with more files is no image, but maybe a container's whole file system.
const MAX_FILES: usize = 65_536;
/// A longer name is no part of an image.
const MAX_NAME: usize = 255;
/// More links in a row lead nowhere.
const MAX_LINKS: usize = 8;
/// Indexes, manifests and configurations are a few KB.
const MAX_JSON: u64 = 4 << 20;

/// An image's parts by name, such as `index.json` and `blobs/sha256/…`.
pub enum Store {
    /// An OCI layout, an unpacked `docker save`, or a `dir:` of skopeo.
    Folder(OwnedFd),
    /// A tar file of one.
    Archive(File, BTreeMap<String, Place>),
}

/// What a name of an archive stands for.
pub enum Place {
    /// This part of the archive.
    Part {
        /// The first byte.
        at: u64,
        /// How many.
        size: u64,
    },
    /// A file with holes, which nobody makes of compressed blobs.
    Sparse,
    /// What another name, from the top, stands for.
    Link(String),
}

/// A file, or a part of one.
pub struct Blob {
    file: File,
    at: u64,
    /// How many bytes it has.
    pub size: u64,
}

/// Reads a blob, and tells how many more bytes are behind it.
pub struct Part<'a> {
    blob: &'a Blob,
    at: u64,
    tick: &'a mut dyn FnMut(u64),
}

impl Store {
    /// Opens a folder, or an archive and lists it.
    pub fn open(path: &Path) -> Result<Store, String> {
        // Not to wait for the writer of a FIFO.
        let file =
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(|e| e.to_string())?;
        let kind = file.metadata().map_err(|e| e.to_string())?;
        if kind.is_dir() {
            return Ok(Store::Folder(file.into()));
        }
        if !kind.is_file() {
            return Err("neither a file nor a folder".into());
        }
        let blob = Blob { file, at: 0, size: kind.len() };
        if let Some(program) = blob.compressed_with().map_err(|e| e.to_string())? {
            let program = program.to_string_lossy();
            return Err(format!("compressed as a whole, which cannot be searched: unpack it first with {program} -d"));
        }
        let names = list(&blob)?;
        Ok(Store::Archive(blob.file, names))
    }

    /// The blob of this name, if there is one. No link leads out of the folder or archive.
    pub fn find(&self, name: &str) -> Result<Option<Blob>, String> {
        let found = match self {
            Store::Folder(top) => in_folder(top, name).map_err(|e| e.to_string()),
            Store::Archive(file, names) => in_archive(file, names, name),
        };
        found.map_err(|e| format!("{}: {e}", quoted(name)))
    }

    /// The JSON document of this name, if there is one.
    pub fn json(&self, name: &str) -> Result<Option<Value>, String> {
        let Some(blob) = self.find(name)? else { return Ok(None) };
        let read = || {
            if blob.size > MAX_JSON {
                return Err(format!("{} bytes are too many for JSON, over {MAX_JSON}", blob.size));
            }
            let mut bytes = vec![0; blob.size as usize];
            blob.file.read_exact_at(&mut bytes, blob.at).map_err(|e| e.to_string())?;
            let text = String::from_utf8(bytes).map_err(|_| "not UTF-8")?;
            Value::parse(text.trim_start_matches('\u{feff}'))
        };
        read().map(Some).map_err(|e| format!("{}: {e}", quoted(name)))
    }
}

/// A part's name in a message: a digest is never cut in its middle.
pub fn quoted(name: &str) -> String {
    format!("{:?}", name.chars().take(MAX_NAME).collect::<String>())
}

/// Opens a name below a folder, one component after the other; no component may be a link.
fn in_folder(top: &OwnedFd, name: &str) -> io::Result<Option<Blob>> {
    let open = || {
        let mut dir = top.try_clone()?;
        let mut rest = name;
        while let Some((first, others)) = rest.split_once('/') {
            dir = file::open_dir_at(dir.as_fd(), component(first)?)?;
            rest = others;
        }
        let file = file::open_at(dir.as_fd(), component(rest)?)?;
        let kind = file.metadata()?;
        match kind.is_file() {
            true => Ok(Blob { file, at: 0, size: kind.len() }),
            false => Err(io::Error::other("not a regular file")),
        }
    };
    match open() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

fn component(name: &str) -> io::Result<&str> {
    match name {
        "" | "." | ".." => Err(io::Error::other("not a name inside the image")),
        name => Ok(name),
    }
}

fn in_archive(file: &File, names: &BTreeMap<String, Place>, name: &str) -> Result<Option<Blob>, String> {
    let mut name = name;
    for _ in 0..MAX_LINKS {
        match names.get(name) {
            None => return Ok(None),
            Some(Place::Link(to)) => name = to,
            Some(Place::Sparse) => return Err("stored with holes: pack the archive again without --sparse".into()),
            Some(Place::Part { at, size }) => {
                let file = file.try_clone().map_err(|e| e.to_string())?;
                return Ok(Some(Blob { file, at: *at, size: *size }));
            }
        }
    }
    Err("a link that leads to links only".into())
}

/// The files and links of an archive.
fn list(archive: &Blob) -> Result<BTreeMap<String, Place>, String> {
    let mut nobody = |_| {};
    let mut source = archive.part(&mut nobody);
    let mut reader = tar::Reader::new(&mut source);
    let mut names = BTreeMap::new();
    while let Some(entry) = reader.next()? {
        let Some(name) = below("", reader.path()) else { continue };
        let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
        let place = match entry.kind {
            b'0' if entry.sparse => Place::Sparse,
            b'0' => Place::Part { at: entry.at, size: entry.size },
            // Older docker save: a layer that several images have is a link to ../OTHER/layer.tar.
            b'1' | b'2' => match below(if entry.kind == b'1' { "" } else { folder }, reader.link()) {
                Some(to) => Place::Link(to),
                None => continue,
            },
            _ => continue,
        };
        names.insert(name, place);
        if names.len() > MAX_FILES {
            return Err(format!("over {MAX_FILES} files: a container's file system, not an image?"));
        }
    }
    match reader.ended_with_zeros() {
        true => Ok(names),
        false => Err(format!("cut off at byte {}: the end mark of two blocks of zeros is missing", archive.size)),
    }
}

/// A name that is written relative to a folder, from the top and without `.` and `..`; None: not inside, or too long.
fn below(folder: &str, name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok().filter(|name| name.len() <= MAX_NAME && !name.starts_with('/'))?;
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(name.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/")).filter(|name| name.len() <= MAX_NAME)
}

impl Blob {
    /// A reader of it from the start.
    pub fn part<'a>(&'a self, tick: &'a mut dyn FnMut(u64)) -> Part<'a> {
        Part { blob: self, at: 0, tick }
    }

    /// The program that unpacks it; None: not compressed, as far as known here.
    pub fn compressed_with(&self) -> io::Result<Option<&'static std::ffi::CStr>> {
        let mut magic = [0; 4];
        let read = self.size.min(4) as usize;
        self.file.read_exact_at(&mut magic[..read], self.at)?;
        Ok(match magic {
            [0x1f, 0x8b, ..] => Some(c"gzip"),
            // A frame, or a skippable one (RFC 8878).
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Some(c"zstd"),
            [0xfd, b'7', b'z', b'X'] => Some(c"xz"),
            [b'B', b'Z', b'h', b'1'..=b'9'] => Some(c"bzip2"),
            _ => None,
        })
    }
}

impl Source for Part<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = (self.blob.size - self.at).min(into.len() as u64) as usize;
        let read = self.blob.file.read_at(&mut into[..most], self.blob.at + self.at)?;
        self.at += read as u64;
        (self.tick)(read as u64);
        Ok(read)
    }

    fn pass(&mut self, count: u64) -> u64 {
        let count = count.min(self.blob.size - self.at);
        self.at += count;
        (self.tick)(count);
        count
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::testing::{Header, Scratch, archive, file, link, packed, pax};
    use super::*;

    fn content(store: &Store, name: &str) -> Result<Option<String>, String> {
        Ok(store.find(name)?.map(|blob| {
            let mut bytes = vec![0; blob.size as usize];
            blob.file.read_exact_at(&mut bytes, blob.at).unwrap();
            String::from_utf8(bytes).unwrap()
        }))
    }

    fn error(bytes: &[u8]) -> String {
        let scratch = Scratch::new();
        Store::open(&scratch.write("x.tar", bytes)).err().unwrap()
    }

    #[test]
    fn finds_members_of_an_archive() {
        let scratch = Scratch::new();
        let holes = pax(b'x', &[("GNU.sparse.major", "1"), ("GNU.sparse.name", "holes")]);
        let path = scratch.write(
            "x.tar",
            &archive(&[
                file("./index.json", 0, 0, b"old"),
                file("a/layer.tar", 0, 0, b"layer a"),
                link("b/layer.tar", b'2', "../a/layer.tar"),
                link("c/layer.tar", b'1', "a/layer.tar"),
                link("loop", b'2', "loop"),
                link("out", b'2', "../etc/passwd"),
                link("abs", b'2', "/etc/passwd"),
                file("../up", 0, 0, b"up"),
                file("/abs2", 0, 0, b"abs"),
                holes,
                file("GNUSparseFile.0/holes", 0, 0, b"x"),
                file("index.json", 0, 0, b"new"),
            ]),
        );
        let store = Store::open(&path).unwrap();
        for (name, text) in [
            ("index.json", Some("new")),
            ("a/layer.tar", Some("layer a")),
            ("b/layer.tar", Some("layer a")),
            ("c/layer.tar", Some("layer a")),
            ("out", None),
            ("abs", None),
            ("../up", None),
            ("up", None),
            ("/abs2", None),
            ("", None),
        ] {
            assert_eq!(content(&store, name).unwrap().as_deref(), text, "{name}");
        }
        assert_eq!(content(&store, "loop").unwrap_err(), "\"loop\": a link that leads to links only");
        let sparse = "\"holes\": stored with holes: pack the archive again without --sparse";
        assert_eq!(content(&store, "holes").unwrap_err(), sparse);
    }

    #[test]
    fn no_link_leads_out_of_a_folder() {
        let scratch = Scratch::new();
        scratch.write("top/blobs/sha256/a", b"in");
        scratch.write("out/sha256/b", b"out");
        symlink("../../../out/sha256/b", scratch.0.join("top/blobs/sha256/b")).unwrap();
        symlink("../out", scratch.0.join("top/linked")).unwrap();
        let store = Store::open(&scratch.0.join("top")).unwrap();
        assert_eq!(content(&store, "blobs/sha256/a").unwrap().as_deref(), Some("in"));
        assert_eq!(content(&store, "blobs/sha256/c").unwrap(), None);
        let refused = |name: &str| content(&store, name).unwrap_err();
        assert!(refused("blobs/sha256/b").contains("os error 40"));
        assert!(refused("linked/sha256/b").contains("os error 20"));
        for name in ["../out/sha256/b", "blobs/../../out/sha256/b", "/etc/passwd", "blobs//sha256/a", ""] {
            assert_eq!(refused(name), format!("{name:?}: not a name inside the image"));
        }
        assert_eq!(refused("blobs/sha256"), "\"blobs/sha256\": not a regular file");
    }

    #[test]
    fn bounds_json() {
        let scratch = Scratch::new();
        scratch.write("big", &vec![b' '; (MAX_JSON + 1) as usize]);
        scratch.write("bytes", &[0xff]);
        scratch.write("good", b"[1]");
        let store = Store::open(&scratch.0).unwrap();
        assert_eq!(store.json("good").unwrap(), Some(Value::List(vec![Value::Number("1".into())])));
        assert_eq!(store.json("none").unwrap(), None);
        assert_eq!(store.json("big").unwrap_err(), "\"big\": 4194305 bytes are too many for JSON, over 4194304");
        assert_eq!(store.json("bytes").unwrap_err(), "\"bytes\": not UTF-8");
    }

    #[test]
    fn refuses_what_is_no_archive() {
        let good = archive(&[file("a", 0, 0, b"x")]);
        let packed = |name| error(&packed(name, &good));
        let whole = "compressed as a whole, which cannot be searched: unpack it first with";
        assert_eq!(packed(c"gzip"), format!("{whole} gzip -d"));
        assert_eq!(packed(c"zstd"), format!("{whole} zstd -d"));
        assert_eq!(packed(c"xz"), format!("{whole} xz -d"));
        assert_eq!(packed(c"bzip2"), format!("{whole} bzip2 -d"));
        assert_eq!(error(b""), "cut off at byte 0: the end mark of two blocks of zeros is missing");
        assert_eq!(error(&good[..1024]), "cut off at byte 1024: the end mark of two blocks of zeros is missing");
        assert_eq!(error(&good[..600]), "cut off at byte 600");
        assert_eq!(error(&[b'x'; 512]), "byte 0: not a tar header, its checksum \"xxxxxxxx\" is not octal");
        let huge = Header::new("a", b'0', 0, 0, 1 << 61).with(b"");
        assert_eq!(error(&archive(&[huge])), "cut off at byte 1536");
        assert_eq!(Store::open(Path::new("/dev/null")).err().unwrap(), "neither a file nor a folder");
        assert!(Store::open(Path::new("/nonexistent")).err().unwrap().contains("os error 2"));
        let many: Vec<Vec<u8>> = (0..=MAX_FILES).map(|i| file(&i.to_string(), 0, 0, b"")).collect();
        assert_eq!(error(&archive(&many)), "over 65536 files: a container's file system, not an image?");
    }
}
