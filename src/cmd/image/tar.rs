//! Tar archives, as far as owners and names go: V7, ustar, GNU and PAX. Reads on, never back, in constant memory.

use super::blocks::{BLOCK, Blocks, Source};
use crate::map::{MAX_ID, cut};

/// A PAX header or long name over this many bytes is no file's.
const MAX_META: u64 = 1 << 20;
/// So many headers may be about the one that follows. Real archives have up to three.
const MAX_CHAIN: usize = 32;

/// A member of the archive. Its names are the reader's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The type flag; all kinds of regular files are `b'0'`.
    pub kind: u8,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Owner and group by the entry's own header, where a global one says otherwise: tar(1) follows that,
    /// containerd and Podman do not.
    pub own: Option<(u32, u32)>,
    /// Bytes of data in the archive.
    pub size: u64,
    /// Where they start.
    pub at: u64,
    /// Holes are left out of the data.
    pub sparse: bool,
}

/// What PAX headers and long names say about the next entry, or about all.
#[derive(Default)]
struct Meta {
    uid: Option<u64>,
    gid: Option<u64>,
    size: Option<u64>,
    sparse: bool,
    path: bool,
    link: bool,
    long: bool,
}

/// Reads an archive.
pub struct Reader<'a> {
    blocks: Blocks<'a>,
    /// The current entry's data that was not read yet, and the padding after it.
    data: u64,
    padding: u64,
    path: Vec<u8>,
    link: Vec<u8>,
    /// uids and gids in the entry's extended attributes.
    attributes: [Vec<u32>; 2],
    global: Meta,
    marked: bool,
}

impl<'a> Reader<'a> {
    /// A reader that is before the first entry.
    pub fn new(source: &'a mut dyn Source) -> Reader<'a> {
        Reader {
            blocks: Blocks::new(source),
            data: 0,
            padding: 0,
            path: Vec::new(),
            link: Vec::new(),
            attributes: Default::default(),
            global: Meta::default(),
            marked: false,
        }
    }

    /// The next entry; None at the end. An error says where and what.
    pub fn next(&mut self) -> Result<Option<Entry>, String> {
        let rest = self.data + self.padding;
        self.data = 0;
        self.blocks.skip(rest)?;
        let mut meta = Meta::default();
        self.attributes = Default::default();
        for chain in 0..=MAX_CHAIN {
            let at = self.blocks.at();
            let Some(header) = self.header()? else {
                return if chain == 0 { Ok(None) } else { Err(self.blocks.cut_off()) };
            };
            let size = number(&header[124..136]).and_then(small).map_err(|e| format!("byte {at}: the size {e}"))?;
            match header[156] {
                kind @ (b'x' | b'X' | b'g' | b'L' | b'K') => self.meta(kind, size, &mut meta)?,
                _ => return self.entry(&header, size, &meta).map(Some),
            }
        }
        Err(format!("byte {}: over {MAX_CHAIN} headers about one file", self.blocks.at()))
    }

    /// The current entry's name, as written.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// What the current entry links to, if it is a link.
    pub fn link(&self) -> &[u8] {
        &self.link
    }

    /// The uids and gids that the current entry's ACLs and file capabilities name.
    pub fn attributes(&self) -> &[Vec<u32>; 2] {
        &self.attributes
    }

    /// Whether the archive ended with zeros, as it should, and not just so.
    pub fn ended_with_zeros(&self) -> bool {
        self.marked
    }

    /// Reads the current entry's data, at most `most` bytes.
    pub fn data(&mut self, most: u64) -> Result<Vec<u8>, String> {
        let count = self.data.min(most);
        self.data -= count;
        self.blocks.take(count)
    }

    /// The next block with a right checksum; None at the end, with or without its two blocks of zeros.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, String> {
        let at = self.blocks.at();
        let Some(block) = self.blocks.next()? else { return Ok(None) };
        if block == [0; BLOCK] {
            return match self.blocks.next()? {
                Some(next) if next != [0; BLOCK] => Err(format!("byte {at}: a block of zeros, and more after it")),
                next => {
                    self.marked = next.is_some();
                    Ok(None)
                }
            };
        }
        let sum = |f: fn(u8) -> i64| {
            let around = block[..148].iter().chain(&block[156..]);
            around.map(|b| f(*b)).sum::<i64>() + 8 * i64::from(b' ')
        };
        let told = number(&block[148..156])
            .and_then(small)
            .map_err(|e| format!("byte {at}: not a tar header, its checksum {e}"))? as i64;
        // Some old tars added bytes up as signed ones.
        if told != sum(i64::from) && told != sum(|b| i64::from(b as i8)) {
            return Err(format!("byte {at}: not a tar header, its checksum is wrong"));
        }
        Ok(Some(block))
    }

    /// A header that is about the next one.
    fn meta(&mut self, kind: u8, size: u64, meta: &mut Meta) -> Result<(), String> {
        let at = self.blocks.at();
        if size > MAX_META {
            return Err(format!("byte {at}: a header of {size} bytes, over {MAX_META}"));
        }
        let text = self.blocks.take(size)?;
        self.blocks.skip(padding(size))?;
        match kind {
            b'L' => {
                self.path = until_nul(&text).to_vec();
                (meta.path, meta.long) = (true, true);
            }
            b'K' => {
                self.link = until_nul(&text).to_vec();
                meta.link = true;
            }
            _ => self.records(&text, kind == b'g', meta).map_err(|e| format!("byte {at}: {e}"))?,
        }
        Ok(())
    }

    /// The records of a PAX header: `LENGTH KEY=VALUE\n`.
    fn records(&mut self, mut text: &[u8], global: bool, meta: &mut Meta) -> Result<(), String> {
        let meta = if global { &mut self.global } else { meta };
        while !text.is_empty() {
            let (record, rest) = split_record(text).ok_or("a damaged PAX header")?;
            text = rest;
            let equals = record.iter().position(|b| *b == b'=').ok_or("a PAX record without '='")?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            // An empty value takes back what an earlier header said.
            let decimal = || match value.is_empty() {
                true => Ok(None),
                false => decimal(value).map(Some).ok_or_else(|| {
                    format!("the PAX {} {:?} is not a number", shown(key), cut(&String::from_utf8_lossy(value)))
                }),
            };
            match key {
                b"uid" => meta.uid = decimal()?,
                b"gid" => meta.gid = decimal()?,
                // A name or size for all files makes no sense, and is not followed.
                _ if global => {}
                b"size" => meta.size = decimal()?.map(small).transpose().map_err(|e| format!("the PAX size {e}"))?,
                b"path" | b"GNU.sparse.name" => {
                    meta.sparse |= key != b"path";
                    if !meta.long {
                        self.path = value.to_vec();
                        meta.path = !value.is_empty();
                    }
                }
                b"linkpath" => {
                    self.link = value.to_vec();
                    meta.link = !value.is_empty();
                }
                _ => match key.strip_prefix(b"SCHILY.xattr.") {
                    Some(name) => attribute(name, value, &mut self.attributes),
                    None => meta.sparse |= key.starts_with(b"GNU.sparse."),
                },
            }
        }
        Ok(())
    }

    /// What header and meta headers make together.
    fn entry(&mut self, header: &[u8; BLOCK], size: u64, meta: &Meta) -> Result<Entry, String> {
        if !meta.path {
            self.path.clear();
            // A prefix is POSIX's; GNU has other things there, and writes "ustar  ".
            if &header[257..263] == b"ustar\0" && header[345] != 0 {
                self.path.extend_from_slice(until_nul(&header[345..500]));
                self.path.push(b'/');
            }
            self.path.extend_from_slice(until_nul(&header[..100]));
        }
        if !meta.link {
            self.link.clear();
            self.link.extend_from_slice(until_nul(&header[157..257]));
        }
        let kind = match header[156] {
            0 if self.path.ends_with(b"/") => b'5',
            0 | b'7' | b'S' => b'0',
            kind => kind,
        };
        let here = self.blocks.at() - BLOCK as u64;
        let path = &self.path;
        let id = |what: &str, pax: Option<u64>, field: &[u8]| {
            let number = pax.map_or_else(|| number(field), Ok).and_then(|n| match u32::try_from(n) {
                Ok(id) if id <= MAX_ID => Ok(id),
                _ => Err(format!("{n} is over {MAX_ID}")),
            });
            number.map_err(|e| format!("byte {here}, {}: the {what} {e}", shown(path)))
        };
        let ids = |uid, gid| Ok::<_, String>((id("uid", uid, &header[108..116])?, id("gid", gid, &header[116..124])?));
        let (uid, gid) = ids(meta.uid.or(self.global.uid), meta.gid.or(self.global.gid))?;
        let own = match self.global.uid.is_some() || self.global.gid.is_some() {
            true => Some(ids(meta.uid, meta.gid)?).filter(|own| *own != (uid, gid)),
            false => None,
        };
        let sparse = meta.sparse || header[156] == b'S';
        if header[156] == b'S' && header[482] != 0 {
            // The rest of the list of holes, in blocks of its own.
            while self.blocks.next()?.ok_or_else(|| self.blocks.cut_off())?[504] != 0 {}
        }
        // As containerd's reader has it: links, devices, directories and FIFOs have no data, whatever their size.
        let size = if matches!(kind, b'1'..=b'6') { 0 } else { meta.size.unwrap_or(size) };
        (self.data, self.padding) = (size, padding(size));
        Ok(Entry { kind, uid, gid, own, size, at: self.blocks.at(), sparse })
    }
}

/// A name in a message.
pub fn shown(name: &[u8]) -> String {
    format!("{:?}", cut(&String::from_utf8_lossy(name)))
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// A size that file offsets can hold.
fn small(number: u64) -> Result<u64, String> {
    // Half of it, so that no sum of two overflows.
    if number > i64::MAX as u64 / 2 { Err(format!("{number} is more than any file has")) } else { Ok(number) }
}

/// A header's number: octal, or GNU's big-endian bytes after a set bit.
fn number(field: &[u8]) -> Result<u64, String> {
    if field[0] & 0x80 != 0 {
        if field[0] & 0x40 != 0 {
            return Err("is negative".into());
        }
        let bytes = std::iter::once(field[0] & 0x3f).chain(field[1..].iter().copied());
        return bytes
            .into_iter()
            .try_fold(0u64, |n, b| Some(n.checked_mul(256)? + u64::from(b)))
            .ok_or("is over 2^64-1".into());
    }
    let text = field.trim_ascii_start();
    let digits = text.iter().take_while(|b| matches!(b, b'0'..=b'7')).count();
    if text[digits..].iter().any(|b| !matches!(b, 0 | b' ')) {
        return Err(format!("{} is not octal", shown(text)));
    }
    Ok(text[..digits].iter().fold(0, |n, b| n * 8 + u64::from(b - b'0')))
}

/// The ids of an ACL (linux/posix_acl_xattr.h), and the root that a file's capabilities are for (linux/capability.h).
fn attribute(name: &[u8], value: &[u8], [uids, gids]: &mut [Vec<u32>; 2]) {
    let id = |bytes: &[u8]| bytes.first_chunk().map(|id| u32::from_le_bytes(*id)).filter(|id| *id <= MAX_ID);
    match name {
        b"security.capability" if value.get(3) == Some(&3) => uids.extend(value.get(20..).and_then(id)),
        b"system.posix_acl_access" | b"system.posix_acl_default" => {
            for entry in value.get(4..).unwrap_or_default().chunks_exact(8) {
                match entry[..2] {
                    [2, 0] => uids.extend(id(&entry[4..])),
                    [8, 0] => gids.extend(id(&entry[4..])),
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    let digits = text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

/// The first record without its length and newline, and the rest.
fn split_record(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = text.iter().take(8).position(|b| *b == b' ')?;
    let length = usize::try_from(decimal(&text[..space])?).ok()?;
    let record = text.get(space + 1..length)?.strip_suffix(b"\n")?;
    Some((record, &text[length..]))
}

#[cfg(test)]
mod tests;
