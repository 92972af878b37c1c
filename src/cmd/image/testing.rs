//! Archives for the tests, made byte by byte.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::blocks::{BLOCK, Source};
use crate::sys::pipe::Program;

/// A tar header, to be changed as a test needs it.
pub struct Header(pub [u8; BLOCK]);

impl Header {
    /// A POSIX header.
    pub fn new(path: &str, kind: u8, uid: u32, gid: u32, size: u64) -> Header {
        let mut header = Header([0; BLOCK]);
        header.set(0, path.as_bytes());
        header.set(100, b"0000644\0");
        header.octal(108, 8, uid.into());
        header.octal(116, 8, gid.into());
        header.octal(124, 12, size);
        header.set(136, b"00000000000\0");
        header.0[156] = kind;
        header.set(257, b"ustar\x0000");
        header
    }

    /// Writes bytes at an offset.
    pub fn set(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// A number in octal, or in GNU's way where it does not fit.
    pub fn octal(&mut self, at: usize, width: usize, number: u64) {
        if number < 1 << (3 * (width - 1)) {
            self.set(at, format!("{number:0w$o}\0", w = width - 1).as_bytes());
        } else {
            self.set(at, &[0; 12][..width]);
            self.set(at + width - 8, &number.to_be_bytes());
            self.0[at] |= 0x80;
        }
    }

    /// With its checksum, and data and padding after it.
    pub fn with(mut self, data: &[u8]) -> Vec<u8> {
        self.set(148, b"        ");
        let sum: u32 = self.0.iter().map(|b| u32::from(*b)).sum();
        self.set(148, format!("{sum:06o}\0 ").as_bytes());
        let mut out = self.0.to_vec();
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        out
    }
}

/// A regular file.
pub fn file(path: &str, uid: u32, gid: u32, data: &[u8]) -> Vec<u8> {
    Header::new(path, b'0', uid, gid, data.len() as u64).with(data)
}

/// A symbolic or hard link.
pub fn link(path: &str, kind: u8, to: &str) -> Vec<u8> {
    let mut header = Header::new(path, kind, 0, 0, 0);
    header.set(157, to.as_bytes());
    header.with(b"")
}

/// A PAX header with these records.
pub fn pax(kind: u8, records: &[(&str, &(impl AsRef<[u8]> + ?Sized))]) -> Vec<u8> {
    let text: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value.as_ref())).collect();
    Header::new("./PaxHeaders/x", kind, 0, 0, text.len() as u64).with(&text)
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = [format!(" {key}=").as_bytes(), value, b"\n"].concat();
    let length = (rest.len()..).find(|n| n.to_string().len() + rest.len() == *n).unwrap();
    [length.to_string().as_bytes(), &rest].concat()
}

/// An ACL as the kernel writes it: tags and ids.
pub fn acl(entries: &[(u16, u32)]) -> Vec<u8> {
    let entry = |(tag, id): &(u16, u32)| [&tag.to_le_bytes()[..], &[6, 0], &id.to_le_bytes()].concat();
    [vec![2, 0, 0, 0], entries.iter().flat_map(entry).collect()].concat()
}

/// The members, and the end mark.
pub fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    let mut out = members.concat();
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}

/// What `gzip -c` or `zstd -c` makes of it.
pub fn packed(name: &'static std::ffi::CStr, mut bytes: &[u8]) -> Vec<u8> {
    let mut program = Program::start(name, c"-c").unwrap();
    let (mut all, mut some) = (Vec::new(), [0; 4096]);
    loop {
        match program.read(&mut some, &mut |into| io::Read::read(&mut bytes, into)).unwrap() {
            0 => return all,
            read => all.extend_from_slice(&some[..read]),
        }
    }
}

/// Bytes that can be passed over, or not, as from a pipe.
pub struct Bytes<'a> {
    /// What is left.
    pub left: &'a [u8],
    /// Whether they come from a pipe, a few at a time.
    pub piped: bool,
}

impl Source for Bytes<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = if self.piped { into.len().min(700) } else { into.len() };
        io::Read::read(&mut self.left, &mut into[..most])
    }

    fn pass(&mut self, count: u64) -> u64 {
        if self.piped {
            return 0;
        }
        let count = count.min(self.left.len() as u64);
        self.left = &self.left[count as usize..];
        count
    }
}

/// A folder of its own, removed with its content when this is dropped.
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// A new folder.
    pub fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("uid-nri-plugin-image-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Scratch(path)
    }

    /// Writes a file in it, and the folders above that.
    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
